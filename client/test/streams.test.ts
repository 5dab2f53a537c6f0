/** Streams that end, fall silent, warn, degrade, start anew, or say what makes no sense. */

import { describe, expect, test, vi } from "vitest";
import { fault } from "./support/fault.js";
import { Page } from "./support/page.js";
import { event } from "./support/service.js";

async function live(options: Parameters<Page["follow"]>[0] = {}): Promise<Page> {
  const page = new Page();
  page.service.change("a");
  page.service.change("b");
  await page.follow(options);
  expect(page.live.status).toBe("live");
  return page;
}

const streamsAsked = (page: Page) => page.service.asked.filter(({ url }) => url.pathname.startsWith("/api/sse/"));

describe("a stream that ends", () => {
  test.each(["endAll", "resetAll"] as const)(
    `${fault(4)}is followed by another within a second (%s), from the cursor`,
    async (how) => {
      const page = await live();
      page.service[how]();
      page.service.change("a");
      expect(await page.untilUpToDate(1_000)).toBeLessThanOrEqual(1_000);
      expect(streamsAsked(page).at(-1)?.url.searchParams.get("cursor")).toMatch(/^1\.epoch-1\./);
      expect(page.updates.filter(({ row }) => row.request_id === "b").length).toBe(1);
      page.live.stop();
    },
  );

  test(`${fault(1)}is followed by another less than two seconds after the server is back`, async () => {
    for (const random of [0, 0.5, 0.999]) {
      const page = await live();
      page.dice = () => random;
      page.service.weather = page.service.pollWeather = "refuses";
      page.service.resetAll();
      await page.clock.pass(2_000);
      page.service.weather = page.service.pollWeather = "fine";
      await page.clock.pass(2_000);
      expect(page.live.status).toBe("live");
      page.live.stop();
    }
  });

  test(`${fault(3)}is tried again for as long as it takes, and no more often than every 30 s in the end`, async () => {
    const page = await live();
    page.dice = () => 0.999;
    page.service.weather = page.service.pollWeather = "refuses";
    page.service.resetAll();
    await page.clock.pass(3_600_000);
    expect(page.live.status).toBe("reconnecting");
    const tries = streamsAsked(page).filter(({ at }) => at > page.clock.now - 600_000).length;
    expect(tries).toBeGreaterThan(15);
    expect(tries).toBeLessThan(25);
    page.service.weather = page.service.pollWeather = "fine";
    await page.clock.pass(31_000);
    expect(page.live.status).toBe("live");
    page.live.stop();
  });

  test(`${fault(2)}with a goodbye is followed by another when the server said, and not before`, async () => {
    const page = await live();
    page.service.goodbye({ reason: "drain", resume: true, retry_ms: 5_000 });
    await page.clock.pass(4_999);
    expect(page.live.status).toBe("reconnecting");
    expect(page.live.reason).toBe("drain");
    expect(streamsAsked(page).length).toBe(1);
    await page.clock.pass(2_001);
    expect(page.live.status).toBe("live");
    page.live.stop();
  });

  test(`${fault(24)}for good is not followed by another`, async () => {
    const page = await live();
    const waiting = page.live.waitForDone("a");
    page.service.goodbye({ reason: "session_closed", resume: false, retry_ms: 100 });
    await expect(waiting).rejects.toThrow("session_closed");
    expect([page.live.status, page.live.reason]).toEqual(["stopped", "session_closed"]);
    await page.clock.pass(100_000);
    expect(page.service.asked.length).toBe(1);
  });

  test(`${fault(15)}behind a proxy that answers 502 is awaited, and polls fill the gap`, async () => {
    const page = await live();
    page.service.weather = 502;
    page.service.resetAll();
    page.service.change("a");
    expect(await page.untilUpToDate(10_000)).toBeLessThanOrEqual(2_000);
    expect(page.live.status).toBe("reconnecting");
    page.service.change("b");
    expect(await page.untilUpToDate(10_000)).toBeLessThanOrEqual(1_500);
    expect(page.live.counts.polls).toBeGreaterThan(1);
    page.service.weather = "fine";
    await page.clock.pass(30_000);
    expect(page.live.status).toBe("live");
    page.live.stop();
  });

  test(`${fault(50)}for many at once is followed by others that spread`, async () => {
    const pages = [];
    const first = new Page();
    for (let number = 0; number < 200; number++) {
      const page = new Page(first.clock, first.service);
      page.dice = Math.random;
      await page.follow();
      pages.push(page);
    }
    const cutAt = first.clock.now;
    first.service.resetAll();
    await first.clock.pass(3_000);
    expect(pages.every(({ live }) => live.status === "live")).toBe(true);
    const times = streamsAsked(first)
      .slice(200)
      .map(({ at }) => at - cutAt);
    const busiest = Math.max(
      ...[0, 100, 200, 300, 400].map((from) => times.filter((at) => at >= from && at < from + 100).length),
    );
    expect(busiest).toBeLessThanOrEqual((3 * times.length) / 5);
    for (const { live } of pages) live.stop();
  });
});

describe("a stream that falls silent", () => {
  test(`${fault(6)}${fault(7)}is given up after two and a half heartbeats and two seconds, and not before`, async () => {
    const page = await live();
    await page.clock.pass(5_000);
    page.service.stallAll();
    page.service.change("a");
    await page.clock.pass(14_400);
    expect(streamsAsked(page).length).toBe(1);
    expect(await page.untilUpToDate(5_000)).toBeLessThanOrEqual(2_000);
    expect(page.updates.filter(({ row }) => row.request_id === "a").map(({ row }) => row.version)).toEqual([1, 2]);
    page.live.stop();
  });

  test("is the sooner given up, the livelier it was", async () => {
    const page = new Page();
    page.service.heartbeat = 1_000;
    page.service.change("a");
    await page.follow();
    page.service.stallAll();
    page.service.change("a");
    expect(await page.untilUpToDate(10_000)).toBeLessThanOrEqual(5_500);
    page.live.stop();
  });

  test(`${fault(11)}is not one whose bytes come slowly, and comments are signs of life`, async () => {
    const page = await live();
    page.service.say("event: snap");
    for (let time = 0; time < 50; time++) {
      await page.clock.pass(1_000);
      page.service.say(":");
    }
    expect(streamsAsked(page).length).toBe(1);
    page.live.stop();
  });

  test(`${fault(52)}is not one because the clock was set, and one that is gone is found whatever the clock says`, async () => {
    for (const step of [3_600_000, -3_600_000]) {
      const page = await live();
      page.clock.jump(step);
      await page.clock.pass(30_000);
      expect(page.live.status).toBe("live");
      page.service.stallAll();
      page.clock.jump(-step);
      page.service.change("a");
      await page.clock.pass(30_000);
      expect(page.isUpToDate).toBe(true);
      page.live.stop();
    }
  });
});

describe("a database that is away", () => {
  test(`${fault(27)}${fault(28)}is asked beside the stream, which stays, until that is synced`, async () => {
    const page = await live();
    page.service.degrade();
    await page.clock.pass(0);
    expect([page.live.status, page.live.reason]).toEqual(["catching_up", "degraded"]);
    page.service.change("a");
    expect(await page.untilUpToDate(5_000)).toBeLessThanOrEqual(1_500);
    page.service.recover();
    await page.clock.pass(0);
    expect([page.live.status, page.live.reason]).toEqual(["live", ""]);
    const polls = page.live.counts.polls;
    await page.clock.pass(60_000);
    expect(page.live.counts.polls).toBe(polls);
    expect(streamsAsked(page).length).toBe(1);
    page.live.stop();
  });

  test(`${fault(26)}and comes back as another, replaces everything, even where versions are lower`, async () => {
    const page = await live();
    for (let time = 0; time < 5; time++) page.service.change("a");
    page.service.degrade();
    await page.clock.pass(1_000);
    page.service.restore();
    await page.clock.pass(1_000);
    page.service.recover();
    await page.clock.pass(0);
    expect(page.isUpToDate).toBe(true);
    expect(page.shown.map(({ version }) => version)).toEqual([1, 1]);
    page.live.stop();
  });

  test(`${fault(26)}and is found to be another by a poll first, is not mixed with what the stream still says of the old one`, async () => {
    const page = await live();
    page.service.degrade();
    await page.clock.pass(1_000);
    const [old] = page.service.states;
    page.service.restore();
    await page.clock.pass(2_000);
    page.service.say(event("request_update", { ...old, version: 50, cause: "live" }));
    page.service.recover();
    await page.clock.pass(0);
    expect(page.isUpToDate).toBe(true);
    page.live.stop();
  });

  test("and is back while another stream is under way, is heard by the one that is there", async () => {
    const page = await live({ auth: { getToken: () => "token" } });
    page.service.weather = "hangs";
    page.service.say(event("token_expiring", { expires_at: 1, in_ms: 4_000 }));
    page.service.degrade();
    await page.clock.pass(3_000);
    expect(streamsAsked(page).length).toBe(2);
    page.service.recover();
    page.service.change("a");
    await page.clock.pass(0);
    expect(page.live.status).toBe("live");
    expect(page.isUpToDate).toBe(true);
    page.live.stop();
  });

  test("what a poll saw beside the stream does not make a later poll miss that a row is gone", async () => {
    const page = await live();
    page.service.degrade();
    await page.clock.pass(2_000);
    page.service.recover();
    await page.clock.pass(0);
    page.service.change("ghost");
    await page.clock.pass(0);
    page.service.weather = 502;
    page.service.resetAll();
    page.service.remove("ghost");
    expect(await page.untilUpToDate(5_000)).toBeLessThanOrEqual(2_500);
    page.live.stop();
  });
});

describe("what makes no sense", () => {
  test.each(["{oops", "7", '{"request_id": "a", "session_id": "s", "version": -1}'])(
    `${fault(46)}is asked for again, beside the stream that lives on: %s`,
    async (text) => {
      const page = await live();
      const [stream] = page.service.liveStreams;
      // The event that was garbled on its way, and a later one that claims it.
      stream?.wire.send(event("request_update", text, "1.epoch-1.99"));
      if (stream) stream.wire.stalled = true;
      page.service.change("a");
      if (stream) stream.wire.stalled = false;
      page.service.change("b");
      await page.clock.pass(0);
      expect(page.live.status).toBe("live");
      expect(page.isUpToDate).toBe(true);
      expect(page.live.counts.skipped).toBe(1);
      expect(streamsAsked(page).length).toBe(2);
      expect(page.service.liveStreams.length).toBe(1);
      page.live.stop();
    },
  );

  test(`${fault(46)}is not forgotten because other events came after it, however long the next stream takes`, async () => {
    const page = await live();
    const [stream] = page.service.liveStreams;
    page.service.weather = "refuses";
    page.service.say(event("request_update", "{"));
    if (stream) stream.wire.stalled = true;
    page.service.change("a");
    if (stream) stream.wire.stalled = false;
    page.service.change("b");
    await page.clock.pass(10_000);
    expect(page.isUpToDate).toBe(false);
    page.service.weather = "fine";
    await page.clock.pass(31_000);
    expect(page.isUpToDate).toBe(true);
    expect(page.live.status).toBe("live");
    page.live.stop();
  });

  test(`${fault(46)}again and again leads to everything anew`, async () => {
    const page = await live();
    page.service.say(event("request_update", "{"));
    page.service.say(event("request_update", "{"));
    await page.clock.pass(5_000);
    expect(page.live.status).toBe("live");
    expect(streamsAsked(page).at(-1)?.url.searchParams.get("cursor")).toBe(null);
    expect(page.isUpToDate).toBe(true);
    page.live.stop();
  });

  test(`is not what is only unknown`, async () => {
    const page = await live();
    page.service.say(event("progress", { request_id: "a", seq: 1, percent: 5 }));
    page.service.say(event("request_update", { ...page.service.change("a"), version: 9, colour: "blue" }));
    await page.clock.pass(0);
    expect(page.live.counts.skipped).toBe(0);
    expect(page.live.get("a")).toMatchObject({ version: 9, colour: "blue" });
    page.live.stop();
  });

  test("is forgiven after a stream that lived long", async () => {
    const page = await live();
    for (const ms of [1_000, 1_000, 15_000, 1_000]) {
      await page.clock.pass(ms);
      expect(page.live.status).toBe("live");
      page.service.say(`data: ${"x".repeat(2_000_000)}`);
      await page.clock.pass(2_000);
    }
    expect(page.live.status).toBe("live");
    page.live.stop();
  });

  test("is an event without an end", async () => {
    const page = await live();
    page.service.say(`data: ${"x".repeat(2_000_000)}`);
    await page.clock.pass(0);
    expect([page.live.status, page.live.reason]).toEqual(["reconnecting", "not_understood"]);
    await page.clock.pass(1_000);
    expect(page.live.status).toBe("live");
    page.live.stop();
  });
});

test(`${fault(31)}${fault(32)}every change is told once, in order, and rows of a snapshot as well`, async () => {
  const page = await live();
  page.service.pieces = 3;
  for (let time = 0; time < 1_000; time++) page.service.change("a");
  page.service.resync("slow_consumer");
  page.service.change("a", { status: "done" });
  await page.clock.pass(0);
  const versions = page.updates.filter(({ row }) => row.request_id === "a").map(({ row }) => row.version);
  expect(versions).toEqual(Array.from({ length: 1_002 }, (_, number) => number + 1));
  page.live.stop();
});

test(`${fault(25)}a cursor that is of no use leads to everything anew`, async () => {
  const page = new Page();
  page.service.change("a");
  const stray = { ...page.service.change("b"), request_id: "stray" };
  await page.follow({ initial: { requests: [stray], cursor: "1.epoch-0.7\n\0 ?&#" } });
  expect(page.live.status).toBe("live");
  expect(page.isUpToDate).toBe(true);
  page.live.stop();
});

test("after it was stopped nothing is told, not even what came in the same piece", async () => {
  const page = await live({ onUpdate: (row) => row.version > 1 && page.live.stop() });
  const told: number[] = [];
  page.live.subscribe(() => told.push(page.live.get("a")?.version ?? 0));
  const { a, b } = { a: page.service.states[0], b: page.service.states[1] };
  page.service.say(
    event("request_update", { ...a, version: 2, cause: "live" }) +
      event("request_update", { ...b, version: 2, cause: "live" }),
  );
  await page.clock.pass(0);
  expect(page.live.status).toBe("stopped");
  expect(page.live.get("a")?.version).toBe(2);
  expect(page.live.get("b")?.version).toBe(1);
});

test("a transport that ends twice is counted once", async () => {
  let opened = 0;
  const page = new Page();
  await page.follow({
    transport: "sse",
    open: (_send, _url, on) => {
      opened++;
      void Promise.resolve().then(() => {
        on.ended({ why: "failed" });
        on.ended({ why: "over" });
      });
      return () => {};
    },
  });
  expect(page.live.status).toBe("reconnecting");
  await page.clock.pass(600);
  expect(opened).toBe(2);
  page.live.stop();
});

test("a listener that throws, or stops the stream, harms nobody", async () => {
  const thrown: unknown[] = [];
  const reporting = vi.spyOn(globalThis, "queueMicrotask").mockImplementation((report) => {
    expect(report).toThrow("a listener's own");
    thrown.push(report);
  });
  const page = await live();
  page.live.subscribe(() => {
    throw new Error("a listener's own");
  });
  page.live.subscribe(() => page.live.stop());
  page.service.change("a");
  await page.clock.pass(0);
  reporting.mockRestore();
  // Told of the change, and that it is over.
  expect(thrown.length).toBe(2);
  expect(page.live.status).toBe("stopped");
  expect(page.clock.pending("client")).toBe(0);
});

test("a snapshot is the same until something changes, and what was given is shown at once", async () => {
  const page = new Page();
  const a = page.service.change("a");
  const following = page.follow({ initial: { requests: [a] } });
  expect(page.live.getSnapshot()).toEqual([a]);
  expect(page.live.getServerSnapshot()).toEqual([a]);
  await following;
  const before = page.live.getSnapshot();
  expect(page.live.getSnapshot()).toBe(before);
  page.service.resetAll();
  await page.clock.pass(2_000);
  expect(page.live.getSnapshot()).toBe(before);
  let calls = 0;
  const leave = page.live.subscribe(() => calls++);
  page.service.change("a");
  await page.clock.pass(0);
  expect(page.live.getSnapshot()).not.toBe(before);
  expect(calls).toBe(1);
  leave();
  page.service.change("a");
  await page.clock.pass(0);
  expect(calls).toBe(1);
  page.live.stop();
});

describe("waiting for a request", () => {
  test("lasts until nothing more can come, by stream and poll alike", async () => {
    for (const transport of ["sse", "poll"] as const) {
      const page = new Page();
      page.service.change("a");
      await page.follow({ transport });
      const waiting = page.live.waitForDone("a");
      page.service.change("a", { status: "done" });
      await page.clock.pass(2_000);
      expect(await waiting).toMatchObject({ status: "done", terminal: true });
      expect(await page.live.waitForDone("a")).toMatchObject({ status: "done" });
      page.live.stop();
    }
  });

  test("ends with the signal, with the request, or with the stream", async () => {
    const page = await live();
    const abort = new AbortController();
    const aborted = page.live.waitForDone("a", { signal: abort.signal });
    abort.abort(new Error("enough"));
    await expect(aborted).rejects.toThrow("enough");
    await expect(page.live.waitForDone("a", { signal: AbortSignal.abort(new Error("no")) })).rejects.toThrow("no");
    const removed = page.live.waitForDone("b");
    page.service.remove("b");
    await expect(removed).rejects.toThrow("removed");
    const stopped = page.live.waitForDone("nobody");
    page.live.stop();
    await expect(stopped).rejects.toThrow("stopped");
  });
});
