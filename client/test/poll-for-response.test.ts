/** One request with its response. */

import { describe, expect, test } from "vitest";
import { followResponse, pollForResponse } from "../src/index.js";
import { Page } from "./support/page.js";
import { SESSION } from "./support/service.js";

/** A page whose service answers for its first request, too. */
function pageWithRequest(): { page: Page; options: Parameters<typeof pollForResponse>[0] } {
  const page = new Page();
  page.service.change("a");
  const { service } = page;
  const { fetch } = service;
  const answering = async (url: string, init: RequestInit): Promise<Response> => {
    if (!url.startsWith("/api/request/")) return fetch(url, init);
    expect(url.split("?")[0]).toBe(`/api/request/${SESSION}/1`);
    // Refused, held and failed as polls of the session are.
    const polled = await fetch(url.replace(/^\/api\/request\/.*\/1/, `/api/session/${SESSION}/requests`), init);
    if (polled.status !== 200) return polled;
    const row = service.rows.get("a")?.state;
    const response = row?.terminal ? "42" : null;
    return new Response(JSON.stringify({ ...row, response }), { status: 200, headers: polled.headers });
  };
  const options = { sessionId: SESSION, seqNum: 1, environment: { ...page.environment(), fetch: answering } };
  return { page, options };
}

describe.each([
  ["by polls", pollForResponse],
  ["by the stream", followResponse],
])("%s", (_, watch) => {
  test("every status is told, and in the end the response", async () => {
    const { page, options } = pageWithRequest();
    const { onStatus, waitForDone } = watch(options);
    const statuses: string[] = [];
    onStatus((status) => statuses.push(status));
    await page.clock.pass(60_000);
    page.service.change("a", { status: "thinking" });
    await page.clock.pass(2_000);
    page.service.change("a", { status: "done" });
    await page.clock.pass(2_000);
    expect(await waitForDone()).toMatchObject({ request_id: "a", response: "42" });
    expect(statuses).toEqual(["in_progress", "thinking", "done"]);
    const late: string[] = [];
    onStatus((status) => late.push(status))();
    expect(late).toEqual(["done"]);
    expect(page.clock.pending("client")).toBe(0);
    expect(page.service.liveStreams).toEqual([]);
  });

  test("it goes on for as long as it takes, through whatever fails", async () => {
    const { page, options } = pageWithRequest();
    const { waitForDone } = watch(options);
    await page.clock.pass(3_600_000);
    page.service.weather = page.service.pollWeather = "refuses";
    page.service.resetAll();
    await page.clock.pass(3_600_000);
    page.service.change("a", { status: "error" });
    page.service.weather = page.service.pollWeather = "fine";
    await page.clock.pass(60_000);
    expect(await waitForDone()).toMatchObject({ status: "error" });
  });

  test("it can be ended at any time, and then leaves nothing", async () => {
    for (const ms of [0, 1, 5_000]) {
      const { page, options } = pageWithRequest();
      const abort = new AbortController();
      const { waitForDone } = watch({ ...options, signal: abort.signal });
      await page.clock.pass(ms);
      abort.abort(new Error("enough"));
      await expect(waitForDone()).rejects.toThrow("enough");
      await page.clock.pass(0);
      expect(page.clock.pending("client")).toBe(0);
      expect(page.service.pending).toBe(0);
    }
  });

  test("what is not there ends it", async () => {
    const { page, options } = pageWithRequest();
    page.service.exists = false;
    const { waitForDone } = watch(options);
    await page.clock.pass(0);
    await expect(waitForDone()).rejects.toThrow("http_404");
    expect(page.clock.pending("client")).toBe(0);
  });

  test("a token that is refused is replaced once", async () => {
    const { page, options } = pageWithRequest();
    page.service.tokens = new Set(["new"]);
    const tokens = ["old", "new"];
    const { waitForDone } = watch({ ...options, auth: { getToken: () => tokens.shift() ?? null } });
    page.service.change("a", { status: "done" });
    await page.clock.pass(5_000);
    expect(await waitForDone()).toMatchObject({ response: "42" });

    const other = pageWithRequest();
    other.page.service.tokens = new Set();
    const refused = watch({ ...other.options, auth: { getToken: () => "old" } });
    await other.page.clock.pass(5_000);
    await expect(refused.waitForDone()).rejects.toThrow();
  });
});

test("by the stream, a request that is removed ends it", async () => {
  const { page, options } = pageWithRequest();
  const { waitForDone } = followResponse(options);
  await page.clock.pass(1_000);
  page.service.remove("a");
  await page.clock.pass(1_000);
  await expect(waitForDone()).rejects.toThrow("removed");
});

test("by polls, a service that does not hold them is asked once a second", async () => {
  const { page, options } = pageWithRequest();
  page.service.pollWeather = 400;
  const abort = new AbortController();
  const { waitForDone } = pollForResponse({ ...options, signal: abort.signal });
  await page.clock.pass(10);
  page.service.pollWeather = "fine";
  await page.clock.pass(60_000);
  expect(page.service.asked.length).toBeLessThan(70);
  expect(page.service.asked.length).toBeGreaterThan(50);
  expect(page.service.asked.slice(1).every(({ url }) => !url.searchParams.has("wait"))).toBe(true);
  abort.abort();
  await expect(waitForDone()).rejects.toThrow();
});
