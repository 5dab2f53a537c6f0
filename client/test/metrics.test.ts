/** What is measured, and how it is sent. */

import { expect, test } from "vitest";
import { createBeacon, createMeasuredStream, type Metric } from "../src/index.js";
import { fault } from "./support/fault.js";
import { Page } from "./support/page.js";
import { event, SESSION } from "./support/service.js";

async function measured(page: Page): Promise<Metric[]> {
  const metrics: Metric[] = [];
  page.live = createMeasuredStream({
    sessionId: SESSION,
    environment: page.environment(),
    onMetric: (metric) => metrics.push(metric),
  });
  await page.clock.pass(0);
  return metrics;
}

test.each(["auto", "sse", "poll"] as const)("nothing is told before the stream is in hand (%s)", async (transport) => {
  const page = new Page();
  const told: string[] = [];
  page.live = createMeasuredStream({
    sessionId: SESSION,
    environment: page.environment(),
    transport,
    onMetric: () => {},
    onStatus: (status) => told.push(`${status} ${page.live === undefined}`),
  });
  expect(told).toEqual([]);
  await page.clock.pass(100);
  expect(told.at(-1)).toBe(`${transport === "poll" ? "polling" : "live"} false`);
  page.live.stop();
});

const named = (metrics: Metric[], name: string) => metrics.filter((metric) => metric.name === name);

test("connections, ends and fallbacks are counted, with their reasons", async () => {
  const page = new Page();
  page.service.change("a");
  const metrics = await measured(page);
  expect(named(metrics, "connect_ms").map(({ value }) => value)).toEqual([0]);
  expect(named(metrics, "catch_up_ms").length).toBe(1);
  page.service.goodbye({ reason: "drain", resume: true, retry_ms: 3_000 });
  await page.clock.pass(10_000);
  expect(named(metrics, "reconnects").map(({ labels }) => labels)).toEqual([{ reason: "drain" }]);
  expect(named(metrics, "gap_polls").length).toBe(1);
  page.service.weather = "html";
  page.service.resetAll();
  await page.clock.pass(10_000);
  expect(named(metrics, "fallback").map(({ labels }) => labels)).toEqual([{ reason: "no_stream" }]);
  page.live.stop();
});

test(`${fault(52)}the lag of events is measured by the server's clock, whatever ours says`, async () => {
  const page = new Page();
  page.service.change("a");
  const metrics = await measured(page);
  const changed = page.service.change("a");
  const slow = { ...changed, version: changed.version + 1, updated_at: page.clock.now / 1_000 - 0.206, cause: "live" };
  page.service.say(event("request_update", slow));
  await page.clock.pass(0);
  expect(named(metrics, "event_lag_ms").map(({ value }) => Math.round(value))).toEqual([0, 206]);
  page.live.stop();

  const skewed = new Page();
  skewed.clock.now += 3_600_000;
  const late = await measured(skewed);
  const server_time = (skewed.clock.now - 3_600_000) / 1_000;
  skewed.service.say(event("heartbeat", { server_time }));
  skewed.service.say(event("heartbeat", { server_time: server_time - 7_200 }));
  await skewed.clock.pass(0);
  skewed.service.say(event("request_update", { ...slow, updated_at: server_time - 0.5 }));
  await skewed.clock.pass(0);
  expect(named(late, "event_lag_ms").every(({ value }) => value >= 0)).toBe(true);
  skewed.live.stop();
});

test("what came again, too late or broken is counted", async () => {
  const page = new Page();
  const first = page.service.change("a");
  const metrics = await measured(page);
  page.service.change("a");
  page.service.say(event("request_update", { ...first, cause: "live" }));
  page.service.say(event("request_update", { ...first, version: 2, cause: "live" }));
  page.service.say(event("request_update", "{"));
  await page.clock.pass(0);
  page.live.stop();
  for (const name of ["stale", "duplicates", "skipped"])
    expect(
      named(metrics, name).reduce((sum, { value }) => sum + value, 0),
      name,
    ).toBeGreaterThanOrEqual(1);
});

test("the beacon sends batches that have a bound, with a token, and gives up what cannot be sent", async () => {
  const page = new Page();
  const sent: { metrics: Metric[]; init: RequestInit }[] = [];
  const fetch = async (url: string, init: RequestInit): Promise<Response> => {
    expect(url).toBe("http://s/api/client-metrics");
    sent.push({ metrics: JSON.parse(String(init.body)).metrics, init });
    throw new TypeError("offline");
  };
  const environment = { ...page.environment(), fetch };
  const beacon = createBeacon({ baseUrl: "http://s", auth: { getToken: () => "token" }, environment });
  for (let number = 0; number < 250; number++) beacon({ name: "stale", value: number, labels: {} });
  await page.clock.pass(9_000);
  expect(sent).toEqual([]);
  await page.clock.pass(1_000);
  expect(sent.map(({ metrics }) => metrics.length)).toEqual([100]);
  expect(sent[0]?.metrics.at(-1)?.value).toBe(249);
  expect(sent[0]?.init.keepalive).toBe(true);
  expect(new Headers(sent[0]?.init.headers).get("authorization")).toBe("Bearer token");
  await page.clock.pass(60_000);
  expect(sent.length).toBe(1);
  beacon({ name: "stale", value: 1, labels: {} });
  page.tell("pagehide");
  await page.clock.pass(0);
  expect(sent.length).toBe(2);
  beacon.flush();
  await page.clock.pass(60_000);
  expect(sent.length).toBe(2);
});
