/** The promise, against whatever may happen in whatever order: with a clock, a network and dice of the test's own. */

import fc from "fast-check";
import { expect, test } from "vitest";
import { fault } from "./support/fault.js";
import { Page } from "./support/page.js";
import { event, type Weather } from "./support/service.js";

const SCHEDULES = Number(process.env["SCHEDULES"] ?? 10_000);
const IDS = ["a", "b", "c", "d"];

/** What may happen, by name, so that a schedule that fails can be read. */
const HAPPENINGS: Record<string, (page: Page, number: number) => void | Promise<void>> = {
  change: ({ service }, n) => void service.change(IDS[n % 4] as string, { status: n % 3 ? "in_progress" : "done" }),
  remove: ({ service }, n) => service.remove(IDS[n % 4] as string),
  restore: ({ service }) => service.restore(),
  resync: ({ service }) => service.resync("slow_consumer"),
  degrade: ({ service }) => service.degrade(),
  recover: ({ service }) => service.recover(),
  wait: ({ clock }, n) => clock.pass(n * 97),
  waitLong: ({ clock }, n) => clock.pass(n * 997),
  sleep: ({ clock }, n) => clock.jump(n * 5_000),
  end: ({ service }) => service.endAll(),
  reset: ({ service }) => service.resetAll(),
  stall: ({ service }) => service.stallAll(),
  chop: ({ service }, n) => void (service.pieces = n % 2 ? 1 + (n % 7) : 1 << 20),
  garble: ({ service }, n) => service.say(event("request_update", n % 2 ? "{oops" : { request_id: 7 })),
  unknown: ({ service }) => service.say(`${event("surprise", { is: "ignored" })}: a comment\n`),
  expire: ({ service }) => service.say(event("token_expiring", { expires_at: 1, in_ms: 30_000 })),
  goodbye: ({ service }, n) => service.goodbye({ reason: "drain", resume: true, retry_ms: n * 50 }),
  toPoll: ({ service }) => service.goodbye({ reason: "switched_off", resume: false, retry_ms: 50, transport: "poll" }),
  fail: ({ service }, n) => {
    service.say(event("error", { error: "Internal server error", code: "internal", retryable: n % 2 === 0 }));
    service.endAll();
  },
  streams: ({ service }, n) => {
    const kinds: Weather[] = ["fine", "refuses", "hangs", "mutes", "html", "cuts", 502, 503, 429, 406];
    service.weather = kinds[n % kinds.length] as Weather;
    service.retryAfter = n % 4;
  },
  polls: ({ service }, n) => {
    const kinds: Weather[] = ["fine", "refuses", "hangs", 500, 429];
    service.pollWeather = kinds[n % kinds.length] as Weather;
  },
  hide: (page) => page.hide(),
  show: (page) => page.show(),
  freeze: (page) => page.tellDocument("freeze"),
  resume: (page) => page.tellDocument("resume"),
  putAway: (page) => page.tell("pagehide"),
  bringBack: (page) => page.tell("pageshow"),
  offline: (page) => page.tell("offline"),
  online: (page) => page.tell("online"),
  reconnect: (page) => page.live.reconnect(),
};

const schedule = fc.array(
  fc.tuple(fc.constantFrom(...Object.keys(HAPPENINGS), "change", "wait"), fc.nat({ max: 40 })),
  { minLength: 1, maxLength: 14 },
);

/** What must hold at every moment. */
function check(page: Page): void {
  const { service, clock } = page;
  // One that is applied, and one that is to take over.
  expect(service.liveStreams.length).toBeLessThanOrEqual(2);
  expect(service.pending).toBeLessThanOrEqual(3);
  expect(clock.pending("client")).toBeLessThanOrEqual(9);
  if (page.live.status === "suspended") {
    expect(service.liveStreams).toEqual([]);
    expect(clock.pending("client")).toBe(0);
  }
}

function checkVersions(page: Page): void {
  const newest = new Map<string, number>();
  for (const { row, change } of page.updates) {
    const key = `${row.request_id}`;
    const before = newest.get(key) ?? 0;
    if (!change.removed) expect(row.version, `${key} goes back`).toBeGreaterThan(before);
    newest.set(key, Math.max(before, row.version));
  }
}

test.each(["auto", "sse", "poll"] as const)(
  `${fault(7)}${fault(46)}whatever happens, in the end a client of %s shows what is`,
  async (transport) => {
    let runs = 0;
    await fc.assert(
      fc.asyncProperty(
        schedule,
        fc.infiniteStream(fc.double({ min: 0, max: 0.999, noNaN: true })),
        async (steps, dice) => {
          runs++;
          const page = new Page();
          const { service, clock } = page;
          page.dice = () => dice.next().value ?? 0.5;
          service.tokens = undefined;
          service.change("a");
          service.change("b", { status: "done" });
          await page.follow({ transport, auth: { getToken: () => "token" } });
          for (const [name, number] of steps) {
            await HAPPENINGS[name]?.(page, number);
            await clock.pass(0);
            check(page);
          }
          if (!steps.some(([name]) => name === "restore")) checkVersions(page);

          // The faults stop.
          service.weather = service.pollWeather = "fine";
          service.recover();
          page.tell("pageshow");
          page.show();
          page.tell("online");
          await page.untilUpToDate(120_000);
          expect(page.shown.map((row) => row.version)).toEqual(service.states.map((row) => row.version));
          service.change("z");
          await page.untilUpToDate(120_000);
          expect(page.isUpToDate).toBe(true);
          check(page);

          page.live.stop();
          await clock.pass(0);
          expect(clock.pending("client")).toBe(0);
          expect(service.pending).toBe(0);
          expect(service.liveStreams).toEqual([]);
          const told = page.updates.length;
          service.change("a");
          await clock.pass(60_000);
          expect(page.updates.length).toBe(told);
        },
      ),
      { numRuns: Math.ceil(SCHEDULES / 3) },
    );
    expect(runs).toBeGreaterThanOrEqual(Math.ceil(SCHEDULES / 3));
  },
  600_000,
);
