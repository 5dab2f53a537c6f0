/** Polling as a first-class way to follow a session. */

import { expect, test } from "vitest";
import { fault } from "./support/fault.js";
import { Page } from "./support/page.js";

async function polling(prepare: (page: Page) => void = () => {}): Promise<Page> {
  const page = new Page();
  page.service.change("a");
  prepare(page);
  await page.follow({ transport: "poll" });
  return page;
}

test("a held poll brings a change at once, and there is one poll at a time", async () => {
  const page = await polling();
  await page.clock.pass(1_000);
  expect(page.live.status).toBe("polling");
  for (let time = 0; time < 20; time++) {
    page.service.change("a");
    await page.clock.pass(130);
    expect(page.isUpToDate).toBe(true);
    expect(page.service.pending).toBeLessThanOrEqual(1);
  }
  const asked = page.service.asked.length;
  await page.clock.pass(250_000);
  expect(page.service.asked.length - asked).toBeLessThanOrEqual(11);
  page.live.stop();
});

test(`every poll names what is known, so that no cache has it wait for another`, async () => {
  const page = await polling();
  await page.clock.pass(1_000);
  page.service.change("a");
  await page.clock.pass(1_000);
  expect(page.service.asked.slice(1).every(({ etag }) => etag)).toBe(true);
  expect(page.service.asked.slice(1).every(({ url }) => url.searchParams.get("cursor"))).toBe(true);
  page.live.stop();
});

test("where polls are not held, it keeps to the interval that the server names", async () => {
  const page = await polling(({ service }) => {
    service.maxWait = 0;
  });
  await page.clock.pass(30_000);
  expect(page.service.asked.length).toBeGreaterThanOrEqual(28);
  expect(page.service.asked.length).toBeLessThanOrEqual(32);
  page.service.change("a", { status: "done" });
  await page.clock.pass(2_000);
  const asked = page.service.asked.length;
  await page.clock.pass(150_000);
  expect(page.service.asked.length - asked).toBeLessThanOrEqual(11);
  page.live.stop();
});

test("it does not spin where something answers every poll at once", async () => {
  const page = await polling();
  await page.clock.pass(1_000);
  page.service.pollWeather = 304;
  await page.clock.pass(60_000);
  expect(page.service.asked.length).toBeLessThan(80);
  page.live.stop();
});

test("rows that are deleted, moved or deleted and made again are shown as they are", async () => {
  const page = await polling(({ service }) => service.change("b"));
  await page.clock.pass(1_000);
  page.service.remove("b");
  await page.clock.pass(500);
  expect(page.isUpToDate, fault(65)).toBe(true);
  page.service.change("b");
  page.service.remove("a");
  await page.clock.pass(500);
  expect(page.isUpToDate).toBe(true);
  page.service.restore();
  await page.clock.pass(500);
  expect(page.isUpToDate).toBe(true);
  page.live.stop();
});

test("what is refused is tried again with longer and longer waits, and never given up", async () => {
  const page = await polling(({ service }) => {
    service.pollWeather = 500;
  });
  await page.clock.pass(3_600_000);
  expect(page.service.asked.length).toBeLessThan(300);
  page.service.pollWeather = "fine";
  await page.clock.pass(31_000);
  expect(page.isUpToDate).toBe(true);
  page.live.stop();
});

test("an answer that never comes is not waited for", async () => {
  const page = await polling(({ service }) => {
    service.pollWeather = "hangs";
  });
  await page.clock.pass(14_000);
  page.service.pollWeather = "fine";
  expect(await page.untilUpToDate(5_000)).toBeLessThanOrEqual(3_000);
  page.live.stop();
});

test("an answer that comes after it was given up is not heard", async () => {
  const page = new Page();
  page.service.change("a");
  const { fetch } = page.service;
  const late = async (url: string, { headers }: RequestInit) => {
    await new Promise<void>((resolve) => page.clock.timersOf("network").setTimeout(resolve, 20_000));
    return fetch(url, { headers: headers as Record<string, string>, signal: new AbortController().signal });
  };
  await page.follow({ transport: "poll", environment: { ...page.environment(), fetch: late } });
  await page.clock.pass(25_000);
  expect(page.live.counts.polls).toBe(0);
  expect(page.live.reason).toBe("unreachable");
  page.live.stop();
});

test(`${fault(47)}where there are too many of them, polls are no longer held, and come no sooner than told`, async () => {
  const page = await polling();
  await page.clock.pass(2_000);
  page.service.pollWeather = 429;
  page.service.retryAfter = 5;
  page.service.change("a");
  await page.clock.pass(1_000);
  page.service.pollWeather = "fine";
  await page.clock.pass(60_000);
  const after = page.service.asked.slice(-6);
  expect(page.isUpToDate).toBe(true);
  expect(after.map(({ url }) => url.searchParams.get("wait"))).toEqual(Array(6).fill("0"));
  for (const [number, { at }] of after.slice(1).entries())
    expect(at - (after[number]?.at ?? 0)).toBeGreaterThanOrEqual(4_000);
  page.live.stop();
});

test("an answer that makes no sense changes nothing, and the next one counts", async () => {
  const page = new Page();
  page.service.change("a");
  const { fetch } = page.service;
  let strange = 2;
  const odd = async (url: string, init: RequestInit) => {
    const response = await fetch(url, init);
    if (strange-- > 0) return new Response('{"requests": [{"version": "x"}], "removed": []}', { status: 200 });
    return response;
  };
  await page.follow({ transport: "poll", environment: { ...page.environment(), fetch: odd } });
  expect(page.live.getSnapshot()).toEqual([]);
  await page.clock.pass(5_000);
  expect(page.isUpToDate).toBe(true);
  expect(page.live.counts.skipped).toBe(2);
  page.live.stop();
});

test.each([403, 404])("a %i ends it", async (status) => {
  const page = await polling(({ service }) => {
    service.pollWeather = status;
  });
  await page.clock.pass(100_000);
  expect([page.live.status, page.live.reason]).toEqual(["stopped", `http_${status}`]);
  expect(page.service.asked.length).toBe(1);
});

test(`${fault(3)}while polls are not answered it says why, and no longer than that`, async () => {
  const page = await polling();
  await page.clock.pass(1_000);
  expect([page.live.status, page.live.reason]).toEqual(["polling", ""]);
  page.service.pollWeather = "refuses";
  page.service.change("a");
  await page.clock.pass(2_000);
  expect([page.live.status, page.live.reason]).toEqual(["polling", "unreachable"]);
  page.service.pollWeather = "fine";
  await page.clock.pass(5_000);
  expect([page.live.status, page.live.reason]).toEqual(["polling", ""]);
  page.live.stop();
});
