/** What pages that were written for an EventSource call. */

import { expect, test } from "vitest";
import { connectSSE, type RequestEventSource, type RequestState } from "../src/index.js";
import { fault } from "./support/fault.js";
import { Page } from "./support/page.js";
import { SESSION } from "./support/service.js";

interface Heard {
  page: Page;
  source: RequestEventSource;
  updates: RequestState[];
  errors: Error[];
  events: string[];
}

async function connected(prepare: (page: Page) => void = () => {}): Promise<Heard> {
  const page = new Page();
  page.service.change("a");
  prepare(page);
  const heard: Pick<Heard, "updates" | "errors" | "events"> = { updates: [], errors: [], events: [] };
  const source = connectSSE(
    SESSION,
    (update) => heard.updates.push(update),
    (error) => heard.errors.push(error),
    { environment: page.environment() },
  );
  for (const type of ["open", "error", "connected", "snapshot", "synced", "request_update", "request_removed"])
    source.addEventListener(type, (event) => heard.events.push(event.type));
  await page.clock.pass(10);
  return { page, source, ...heard };
}

test("a page is told what happens, not what was, and the named events as they come", async () => {
  const { page, source, updates, errors, events } = await connected();
  expect(source.url).toBe(`/api/sse/${SESSION}`);
  expect([source.readyState, source.OPEN]).toEqual([1, 1]);
  expect(updates).toEqual([]);
  expect(events).toEqual(
    ["connected", "snapshot", "synced", "open"].sort((a, b) => events.indexOf(a) - events.indexOf(b)),
  );
  const messages: MessageEvent[] = [];
  source.addEventListener("request_update", (event) => messages.push(event as MessageEvent));
  const changed = page.service.change("a", { status: "done" });
  page.service.change("new");
  page.service.remove("new");
  await page.clock.pass(0);
  expect(updates.map(({ request_id, status }) => [request_id, status])).toEqual([
    ["a", "done"],
    ["new", "in_progress"],
  ]);
  expect(JSON.parse(messages[0]?.data)).toEqual(changed);
  expect(events.at(-1)).toBe("request_removed");
  expect(errors).toEqual([]);
  source.close();
});

test(`${fault(45)}what ends a stream is an error event, not the end: it reconnects, and every change is told once`, async () => {
  const { page, source, updates, errors, events } = await connected();
  source.onerror = () => expect(source.readyState).toBe(0);
  page.service.resetAll();
  page.service.change("a");
  await page.clock.pass(2_000);
  expect(source.readyState).toBe(1);
  expect(events.filter((type) => type === "error").length).toBe(1);
  expect(updates.length).toBe(1);
  expect(errors).toEqual([]);
  source.close();
});

test("where streams do not get through, polls tell the same", async () => {
  const { page, source, updates } = await connected(({ service }) => {
    service.weather = "html";
  });
  await page.clock.pass(1_000);
  expect(source.readyState).toBe(1);
  expect(updates).toEqual([]);
  page.service.change("a");
  await page.clock.pass(1_000);
  expect(updates.length).toBe(1);
  source.close();
});

test("the end is told once, unless the page itself wanted it", async () => {
  const { page, source, errors } = await connected();
  let opened = 0;
  source.onopen = () => opened++;
  page.service.goodbye({ reason: "revoked", resume: false, retry_ms: 10 });
  await page.clock.pass(0);
  expect(errors.map(String)).toEqual(["Error: the stream has ended: revoked"]);
  expect(source.readyState).toBe(2);
  expect(opened).toBe(0);

  const other = await connected();
  other.source.close();
  await other.page.clock.pass(60_000);
  expect(other.source.readyState).toBe(2);
  expect(other.errors).toEqual([]);
  expect(other.events.filter((type) => type === "error")).toEqual([]);
  expect(other.page.service.liveStreams).toEqual([]);
});
