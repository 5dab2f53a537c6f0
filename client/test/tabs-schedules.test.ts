/** What tabs promise, against whatever may happen to them in whatever order. */

import fc from "fast-check";
import { expect, test } from "vitest";
import { Browser, type Tab } from "./support/browser.js";
import { fault } from "./support/fault.js";
import type { Weather } from "./support/service.js";

const SCHEDULES = Number(process.env["SCHEDULES"] ?? 6_000);
const USERS = ["ada", "bob"];
const MOST_TABS = 5;

const userOf = (n: number) => USERS[n % 5 ? 0 : 1] as string;
const keyOf = (n: number) => `${userOf(n)}-${"abc"[n % 3]}`;

const pick = ({ tabs }: Browser, n: number): Tab | undefined => [...tabs][n % Math.max(1, tabs.size)];

async function open(browser: Browser, n: number, transport: "auto" | "sse" | "poll"): Promise<void> {
  if (browser.tabs.size >= MOST_TABS) return;
  const user = userOf(n);
  const { states, cursor } = browser.serviceOf(user);
  // One page in three is rendered on the server, and every other of those knows up to where.
  const initial = n % 3 ? {} : { initial: n % 2 ? { requests: states } : { requests: states, cursor } };
  const tab = browser.open(user);
  await tab.follow({ transport, auth: { getToken: () => `tab ${tab.number}` }, ...initial });
}

/** What may happen, by name, so that a schedule that fails can be read. */
const HAPPENINGS: Record<string, (browser: Browser, n: number, transport: "auto" | "sse" | "poll") => unknown> = {
  open,
  close: (browser, n) => pick(browser, n)?.close(),
  crash: (browser, n) => pick(browser, n)?.crash(),
  freeze: (browser, n) => pick(browser, n)?.freeze(),
  thaw: (browser, n) => pick(browser, n)?.thaw(),
  freezeLeader: (browser, n) => browser.leaderOf(userOf(n))?.freeze(),
  closeLeader: (browser, n) => browser.leaderOf(userOf(n))?.close(),
  putAway: (browser, n) => pick(browser, n)?.putAway(),
  bringBack: (browser, n) => pick(browser, n)?.bringBack(),
  logOut(browser, n, transport) {
    const tab = pick(browser, n);
    if (!tab || tab.isFrozen) return;
    tab.live.stop();
    browser.tabs.delete(tab);
    return open(browser, n + 1, transport);
  },
  reconnect: (browser, n) => pick(browser, n)?.live.reconnect(),
  change: (browser, n) => browser.serviceOf(userOf(n)).change(keyOf(n), { status: n % 4 ? "in_progress" : "done" }),
  remove: (browser, n) => browser.serviceOf(userOf(n)).remove(keyOf(n)),
  restore: (browser, n) => browser.serviceOf(userOf(n)).restore(),
  resync: (browser, n) => browser.serviceOf(userOf(n)).resync("slow_consumer"),
  degrade: (browser, n) => browser.serviceOf(userOf(n)).degrade(),
  recover: (browser, n) => browser.serviceOf(userOf(n)).recover(),
  reset: (browser, n) => browser.serviceOf(userOf(n)).resetAll(),
  stall: (browser, n) => browser.serviceOf(userOf(n)).stallAll(),
  streams(browser, n) {
    const kinds: Weather[] = ["fine", "refuses", "hangs", "mutes", "html", "cuts", 502, 503];
    browser.serviceOf(userOf(n)).weather = kinds[n % kinds.length] as Weather;
  },
  polls(browser, n) {
    browser.serviceOf(userOf(n)).pollWeather = n % 2 ? "fine" : "refuses";
  },
  wait: ({ clock }, n) => clock.pass(n * 97),
  waitLong: ({ clock }, n) => clock.pass(n * 997),
  sleep: ({ clock }, n) => clock.jump(n * 1_000),
};

const often = ["open", "open", "change", "wait"];
const schedule = fc.array(fc.tuple(fc.constantFrom(...Object.keys(HAPPENINGS), ...often), fc.nat({ max: 40 })), {
  minLength: 2,
  maxLength: 20,
});

/** Nothing of one user is ever in a tab of another. */
function checkUsers(browser: Browser): void {
  for (const { live, updates, user } of browser.tabs) {
    for (const row of [...live.getSnapshot(), ...updates.map((update) => update.row)])
      expect(row.request_id.startsWith(user), `${row.request_id} in a tab of ${user}`).toBe(true);
  }
}

function checkVersions(browser: Browser): void {
  for (const { updates } of browser.tabs) {
    const newest = new Map<string, number>();
    for (const { row, change } of updates) {
      const before = newest.get(row.request_id) ?? 0;
      if (!change.removed) expect(row.version, `${row.request_id} goes back`).toBeGreaterThan(before);
      newest.set(row.request_id, Math.max(before, row.version));
    }
  }
}

/** The streams of a user that are open in tabs that run. */
function streamsOf(browser: Browser, user: string) {
  const running = [...browser.tabs].filter((tab) => !tab.isFrozen).map((tab) => `tab ${tab.number}`);
  return browser.serviceOf(user).liveStreams.filter(({ token }) => running.includes(token ?? ""));
}

async function checkInTheEnd(browser: Browser): Promise<void> {
  const running = [...browser.tabs].filter((tab) => !tab.isFrozen);
  for (const tab of running) {
    tab.bringBack();
    tab.window.dispatchEvent(new Event("online"));
  }
  await browser.clock.pass(120_000);
  const wrong = running.filter((tab) => !tab.isUpToDate).map((tab) => tab.number);
  expect(wrong, "tabs that do not show what is").toEqual([]);
  for (const user of USERS) {
    const count = running.filter((tab) => tab.user === user).length;
    expect(streamsOf(browser, user).length, `streams of ${user}`).toBe(Math.min(count, 1));
    const { pending } = browser.serviceOf(user);
    if (running.length === browser.tabs.size) expect(pending, `polls of ${user}`).toBe(0);
  }
}

test.each(["auto", "sse"] as const)(
  `${fault(36)}${fault(37)}${fault(38)}${fault(44)}whatever happens, one tab of a user streams in the end (%s), and all show what is`,
  async (transport) => {
    await fc.assert(
      fc.asyncProperty(
        schedule,
        fc.infiniteStream(fc.double({ min: 0, max: 0.999, noNaN: true })),
        async (steps, dice) => {
          const browser = new Browser();
          browser.dice = () => dice.next().value ?? 0.5;
          for (const user of USERS) browser.serviceOf(user).change(`${user}-a`);
          for (const [name, number] of steps) {
            await HAPPENINGS[name]?.(browser, number, transport);
            await browser.clock.pass(0);
            checkUsers(browser);
          }
          if (!steps.some(([name]) => name === "restore")) checkVersions(browser);

          // The faults stop, but for tabs that stay frozen; then they thaw, too.
          for (const user of USERS) {
            const service = browser.serviceOf(user);
            service.weather = service.pollWeather = "fine";
            service.recover();
          }
          await checkInTheEnd(browser);
          for (const tab of browser.tabs) tab.thaw();
          for (const user of USERS) browser.serviceOf(user).change(`${user}-z`);
          await checkInTheEnd(browser);
          checkUsers(browser);

          // Once it is quiet, it stays so.
          const asked = USERS.map((user) => browser.serviceOf(user).asked.length);
          await browser.clock.pass(60_000);
          expect(USERS.map((user) => browser.serviceOf(user).asked.length)).toEqual(asked);

          const tabs = [...browser.tabs];
          browser.close();
          await browser.clock.pass(0);
          expect(browser.locks.held.size).toBe(0);
          expect(browser.channels.size).toBe(0);
          for (const tab of tabs) expect(tab.timers).toBe(0);
          for (const user of USERS) expect(browser.serviceOf(user).pending).toBe(0);
        },
      ),
      { numRuns: Math.ceil(SCHEDULES / 2) },
    );
  },
  600_000,
);
