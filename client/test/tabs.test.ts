/** Tabs that share one stream: who has it, who follows, and what happens when that changes. */

import { describe, expect, test, vi } from "vitest";
import { byShare } from "../src/rollout.js";
import { createSharedStream } from "../src/tabs.js";
import { Browser, type Tab } from "./support/browser.js";
import { fault } from "./support/fault.js";
import { SESSION } from "./support/service.js";

const isStream = ({ url }: { url: URL }) => url.pathname === `/api/sse/${SESSION}`;
const streamsAsked = ({ service }: Browser) => service.asked.filter(isStream).length;

/** A browser with some tabs, the first of which leads. */
async function browserWith(count: number): Promise<{ browser: Browser; tabs: Tab[] }> {
  const browser = new Browser();
  browser.service.change("a");
  browser.service.change("b", { status: "done" });
  const tabs: Tab[] = [];
  for (let number = 0; number < count; number++) tabs.push(await browser.follow());
  return { browser, tabs };
}

test(`${fault(36)}eight tabs have one stream, and every change is in all of them at once`, async () => {
  const { browser, tabs } = await browserWith(8);
  expect(tabs.map(({ live }) => live.status)).toEqual(Array(8).fill("live"));
  expect(browser.isUpToDate).toBe(true);
  browser.service.change("c");
  browser.service.change("a", { status: "done" });
  browser.service.remove("b");
  expect(await browser.untilUpToDate(100)).toBe(0);
  await browser.clock.pass(60_000);
  expect(browser.service.asked.length).toBe(1);
  for (const { updates } of tabs) {
    expect(updates.map(({ row, change }) => [row.request_id, change.first, change.removed])).toEqual([
      ["a", true, false],
      ["b", true, false],
      ["c", false, false],
      ["a", false, false],
      ["b", false, true],
    ]);
  }
  browser.close();
});

describe("when the leader goes", () => {
  test.each(["close", "crash"] as const)(
    `${fault(37)}by a %s, another leads within a second, and goes on from the cursor`,
    async (how) => {
      const { browser, tabs } = await browserWith(3);
      const told = tabs.map(({ updates }) => updates.length);
      browser.leaderOf()?.[how]();
      browser.service.change("a", { status: "done" });
      expect(await browser.untilUpToDate(1_000)).toBeLessThanOrEqual(1_000);
      expect(browser.leaderOf()).toBe(tabs[1]);
      expect(browser.service.liveStreams.length).toBe(1);
      expect(browser.service.asked.at(-1)?.url.searchParams.get("cursor")).toMatch(/^1\.epoch-1\./);
      expect(tabs.slice(1).map(({ updates }) => updates.length)).toEqual(told.slice(1).map((count) => count + 1));
      browser.close();
    },
  );

  test("because it is stopped, another leads, and nothing is told in the one that was stopped", async () => {
    const { browser, tabs } = await browserWith(2);
    tabs[0]?.live.stop();
    browser.service.change("a", { status: "done" });
    await browser.clock.pass(10);
    expect(tabs[1]?.isUpToDate).toBe(true);
    expect(tabs[0]?.updates.length).toBe(2);
    expect(tabs[0]?.timers).toBe(0);
    expect(browser.channels.size).toBe(1);
    browser.close();
    await browser.clock.pass(0);
    expect(browser.channels.size).toBe(0);
    expect(browser.locks.held.size).toBe(0);
    expect(browser.service.liveStreams).toEqual([]);
    expect(browser.service.pending).toBe(0);
  });

  test(`${fault(39)}by being put away, it lets go of everything, and takes part again when it is back`, async () => {
    const { browser, tabs } = await browserWith(2);
    const [first, second] = tabs as [Tab, Tab];
    first.putAway();
    browser.service.change("a");
    await browser.clock.pass(10);
    expect(first.live.status).toBe("suspended");
    expect(first.timers).toBe(0);
    expect(browser.leaderOf()).toBe(second);
    expect(second.isUpToDate).toBe(true);
    browser.service.change("c");
    first.bringBack();
    await browser.clock.pass(10);
    expect(browser.isUpToDate).toBe(true);
    expect(first.live.status).toBe("live");
    expect(browser.leaderOf()).toBe(second);
    second.close();
    browser.service.change("a");
    expect(await browser.untilUpToDate(1_000)).toBeLessThanOrEqual(1_000);
    expect(browser.leaderOf()).toBe(first);
    browser.close();
  });

  test(`${fault(38)}silent because it is frozen, another takes its place, and gives it back nothing when it thaws`, async () => {
    const { browser, tabs } = await browserWith(4);
    tabs[0]?.freeze();
    browser.service.change("a", { status: "done" });
    const others = tabs.slice(1);
    await browser.clock.pass(20_000, () => others.every((tab) => tab.isUpToDate));
    expect(others.every((tab) => tab.isUpToDate)).toBe(true);
    await browser.clock.pass(60_000);
    expect(browser.leaderOf()).not.toBe(tabs[0]);
    // That of the frozen tab cannot be closed by anybody else.
    expect(browser.service.liveStreams.length).toBe(2);
    tabs[0]?.thaw();
    browser.service.change("b", { status: "error" });
    expect(await browser.untilUpToDate(1_000)).toBeLessThanOrEqual(1_000);
    expect(browser.service.liveStreams.length).toBe(1);
    expect(browser.leaderOf()).not.toBe(tabs[0]);
    browser.close();
  });

  test(`${fault(38)}silent, a new tab does not wait for it`, async () => {
    const { browser, tabs } = await browserWith(1);
    tabs[0]?.freeze();
    const tab = await browser.follow();
    await browser.clock.pass(10_000, () => tab.isUpToDate);
    expect(browser.clock.now - 1_700_000_000_000).toBeLessThanOrEqual(3_100);
    expect(tab.isUpToDate).toBe(true);
    browser.close();
  });
});

test("a leader whose server is away is not a silent one: nobody takes its place, and nobody asks beside it", async () => {
  const { browser, tabs } = await browserWith(3);
  browser.service.weather = browser.service.pollWeather = "refuses";
  browser.service.resetAll();
  await browser.clock.pass(0);
  expect(tabs.map(({ live }) => live.status)).toEqual(Array(3).fill("reconnecting"));
  await browser.clock.pass(120_000);
  expect(browser.leaderOf()).toBe(tabs[0]);
  const asked = browser.service.asked.length;
  expect(asked).toBeLessThan(40);
  browser.service.weather = browser.service.pollWeather = "fine";
  browser.service.change("a", { status: "done" });
  await browser.untilUpToDate(31_000);
  await browser.clock.pass(31_000);
  expect(tabs.map(({ live }) => live.status)).toEqual(Array(3).fill("live"));
  browser.close();
});

test("somebody who opens a tab has a leader that waits try at once", async () => {
  const { browser, tabs } = await browserWith(1);
  browser.service.weather = browser.service.pollWeather = "refuses";
  browser.service.resetAll();
  await browser.clock.pass(600_000);
  browser.service.weather = browser.service.pollWeather = "fine";
  await browser.follow();
  await browser.clock.pass(10);
  expect(browser.isUpToDate).toBe(true);
  expect(tabs[0]?.live.status).toBe("live");
  browser.close();
});

describe("polls", () => {
  test("are shared where streams do not get through, and the status is told as it is", async () => {
    const browser = new Browser();
    browser.service.change("a");
    browser.service.weather = "html";
    const tabs = [await browser.follow(), await browser.follow(), await browser.follow()];
    await browser.clock.pass(6_000);
    expect(tabs.map(({ live }) => live.status)).toEqual(Array(3).fill("polling"));
    expect(tabs.map(({ live }) => live.reason)).toEqual(Array(3).fill("no_stream"));
    expect(browser.service.pending).toBe(1);
    browser.service.change("a");
    await browser.clock.pass(200);
    expect(browser.isUpToDate).toBe(true);
    browser.service.weather = "fine";
    await browser.clock.pass(40_000);
    expect(tabs.map(({ live }) => live.status)).toEqual(Array(3).fill("live"));
    expect(tabs.map(({ statuses }) => statuses.at(-1))).toEqual(Array(3).fill("live"));
    browser.close();
  });

  test.each([
    ["asked for", { transport: "poll" as const }],
    ["chosen by the roll-out", { rollout: byShare({ percent: 50, salt: "sse-v1", user: "用户1" }) }],
  ])("are shared where they are %s, and no stream is ever opened", async (_, options) => {
    const browser = new Browser();
    browser.service.change("a");
    const tabs = [await browser.follow(options), await browser.follow(options)];
    await browser.clock.pass(600_000);
    expect(tabs.map(({ live }) => live.status)).toEqual(["polling", "polling"]);
    expect(streamsAsked(browser)).toBe(0);
    expect(browser.service.pending).toBe(1);
    browser.leaderOf()?.close();
    browser.service.change("a");
    await browser.untilUpToDate(5_000);
    expect(browser.isUpToDate).toBe(true);
    expect(streamsAsked(browser)).toBe(0);
    browser.close();
  });

  test("that a tab remembers from before are given up for a leader's word", async () => {
    const { browser } = await browserWith(1);
    const tab = browser.open();
    tab.memory.set("rowcast", `${browser.clock.now + 600_000}`);
    await tab.follow();
    await browser.clock.pass(36_000);
    expect(tab.live.status).toBe("live");
    expect(browser.service.pending).toBe(0);
    expect(browser.service.liveStreams.length).toBe(1);
    browser.close();
  });
});

test("what was removed while nobody led is no reason to doubt who leads then", async () => {
  const { browser, tabs } = await browserWith(4);
  browser.leaderOf()?.close();
  browser.service.remove("b");
  await browser.clock.pass(60_000);
  expect(browser.isUpToDate).toBe(true);
  expect(browser.leaderOf()).toBe(tabs[1]);
  expect(streamsAsked(browser)).toBe(2);
  browser.close();
});

test("who leads again tells everything anew, since others may have asked before that", async () => {
  const { browser, tabs } = await browserWith(1);
  const [first] = tabs as [Tab];
  first.putAway();
  await browser.clock.pass(0);
  const frozen = await browser.follow();
  frozen.freeze();
  const second = browser.open();
  let dice = 0;
  browser.dice = () => (dice = 0.9 - dice);
  void second.follow({ transport: "sse" });
  first.bringBack();
  await browser.clock.pass(2_000);
  expect(browser.leaderOf()).not.toBe(frozen);
  await browser.clock.pass(2_000);
  expect([first.isUpToDate, second.isUpToDate]).toEqual([true, true]);
  expect([first.live.status, second.live.status]).toEqual(["live", "live"]);
  browser.close();
});

test("a leader is missed the sooner, the livelier its stream was", async () => {
  const browser = new Browser();
  browser.service.heartbeat = 1_000;
  browser.service.change("a");
  const [leader, tab] = [await browser.follow(), await browser.follow()];
  leader.freeze();
  browser.service.change("a");
  await browser.clock.pass(8_000, () => tab.isUpToDate);
  expect(tab.isUpToDate).toBe(true);
  browser.close();
});

describe("who knows more than the leader", () => {
  test("takes its place: a request that a page was rendered with stays", async () => {
    const { browser, tabs } = await browserWith(2);
    browser.service.stallAll();
    const rendered = browser.service.change("new");
    const tab = browser.open();
    void tab.follow({ initial: { requests: [rendered] } });
    const waiting = tab.live.waitForDone("new");
    await browser.untilUpToDate(2_000);
    expect(browser.isUpToDate).toBe(true);
    expect(browser.leaderOf()).toBe(tab);
    expect(tab.updates.some(({ change }) => change.removed)).toBe(false);
    browser.service.change("new", { status: "done" });
    expect((await waiting).status).toBe("done");
    await browser.clock.pass(0);
    expect(tabs.every(({ isUpToDate }) => isUpToDate)).toBe(true);
    expect(browser.service.liveStreams.length).toBe(1);
    browser.close();
  });

  test("because it was away when a request was deleted, learns of it", async () => {
    const { browser, tabs } = await browserWith(2);
    tabs[1]?.putAway();
    browser.service.remove("b");
    browser.service.change("c");
    await browser.clock.pass(100);
    tabs[1]?.bringBack();
    await browser.untilUpToDate(2_000);
    expect(browser.isUpToDate).toBe(true);
    await browser.clock.pass(60_000);
    // Nobody doubts its word in turn, since it gives none before it has heard the server.
    expect(browser.leaderOf()).toBe(tabs[1]);
    expect(streamsAsked(browser)).toBe(2);
    expect(browser.service.liveStreams.length).toBe(1);
    browser.close();
  });

  test("does so whatever that leader says meanwhile", async () => {
    const { browser, tabs } = await browserWith(2);
    const [row] = tabs[0]?.shown ?? [];
    if (!row) throw new Error("there is a row");
    const tab = browser.open();
    void tab.follow({ initial: { requests: [{ ...row, request_id: "long gone" }] } });
    for (let time = 0; time < 12; time++) {
      browser.service.change("a");
      await browser.clock.pass(100);
    }
    expect(browser.leaderOf()).toBe(tab);
    expect(browser.isUpToDate).toBe(true);
    browser.close();
  });

  test("asks the server about a removal that is older than what it knows", async () => {
    const { browser } = await browserWith(2);
    const [stream] = browser.service.liveStreams;
    if (stream) stream.wire.stalled = true;
    browser.service.change("a");
    browser.service.change("a");
    await browser.follow({ initial: { requests: browser.service.states } });
    browser.service.remove("a");
    if (stream) stream.wire.stalled = false;
    browser.service.resync("truncated");
    await browser.clock.pass(3_000);
    expect(browser.isUpToDate).toBe(true);
    expect(browser.service.liveStreams.length).toBe(1);
    browser.close();
  });
});

test(`${fault(26)}another epoch replaces everything in all tabs, even where versions are lower`, async () => {
  const { browser, tabs } = await browserWith(5);
  for (let time = 0; time < 5; time++) browser.service.change("a");
  await browser.clock.pass(0);
  browser.service.restore();
  browser.service.resync("epoch_changed");
  await browser.clock.pass(100);
  expect(browser.isUpToDate).toBe(true);
  expect(tabs.map(({ shown }) => shown[0]?.version)).toEqual(Array(5).fill(1));
  expect(streamsAsked(browser)).toBe(1);
  browser.close();
});

test("a tab that polls from memory streams as soon as it leads", async () => {
  const browser = new Browser();
  browser.service.change("a");
  const tab = browser.open();
  tab.memory.set("rowcast", `${browser.clock.now + 600_000}`);
  await tab.follow();
  expect(tab.live.status).toBe("polling");
  await browser.clock.pass(36_100);
  expect(tab.live.status).toBe("live");
  browser.close();
});

describe(`${fault(44)}another user`, () => {
  test("who logs in sees nothing of the one before, in no tab", async () => {
    const browser = new Browser();
    browser.service.change("secret");
    const tabs = [await browser.follow(), await browser.follow()];
    const [tab] = tabs as [Tab, Tab];
    tab.live.stop();
    const other = await browser.follow({}, "bob");
    browser.service.change("secret", { status: "done" });
    browser.serviceOf("bob").change("his");
    await browser.clock.pass(60_000);
    expect(other.updates.map(({ row }) => row.request_id)).toEqual(["his"]);
    expect(other.live.getSnapshot().length).toBe(1);
    expect(tabs[1]?.updates.some(({ row }) => row.request_id === "his")).toBe(false);
    expect(browser.service.liveStreams.length).toBe(1);
    expect(browser.serviceOf("bob").liveStreams.length).toBe(1);
    browser.close();
  });

  test("is not listened to even on a channel of the same name", async () => {
    const { browser, tabs } = await browserWith(2);
    const [name] = [...browser.channels].map((channel) => channel.name);
    const { BroadcastChannel } = browser.open("bob").environment();
    const foreign = new (BroadcastChannel as NonNullable<typeof BroadcastChannel>)(name as string);
    browser.service.change("a");
    await browser.clock.pass(0);
    const word = browser.said.at(-1);
    const row = { ...tabs[0]?.shown[0], request_id: "foreign" };
    for (const user of ["bob", "ada"]) {
      const group = word?.group.replace("ada", user);
      foreign.postMessage({ ...word, group, events: [["request_update", { ...row, request_id: `of ${user}` }]] });
      await browser.clock.pass(0);
    }
    const known = tabs[1]?.live.getSnapshot().map((other) => other.request_id);
    expect(known).toContain("of ada");
    expect(known).not.toContain("of bob");
    browser.close();
  });
});

describe("each has its own stream", () => {
  test.each(["BroadcastChannel", "navigator"] as const)("where there is no %s", async (missing) => {
    const browser = new Browser();
    browser.service.change("a");
    for (let number = 0; number < 2; number++) {
      const tab = browser.open();
      const { [missing]: _, ...environment } = tab.environment();
      await tab.follow({ environment });
    }
    expect(browser.isUpToDate).toBe(true);
    expect(browser.service.liveStreams.length).toBe(2);
    browser.close();
  });

  test.each(["channels", "locks"])("where %s are refused", async (what) => {
    const browser = new Browser();
    browser.service.change("a");
    for (let number = 0; number < 2; number++) {
      const tab = browser.open();
      const refuse = () => Promise.reject(new DOMException("no", "SecurityError"));
      await tab.follow({
        environment: {
          ...tab.environment(),
          ...(what === "locks" && { navigator: { locks: { request: refuse } } }),
          ...(what === "channels" && {
            BroadcastChannel: class {
              onmessage = null;
              constructor() {
                throw new DOMException("no", "SecurityError");
              }
              postMessage() {}
              close() {}
            },
          }),
        },
      });
    }
    await browser.clock.pass(100);
    expect(browser.isUpToDate).toBe(true);
    expect(browser.service.liveStreams.length).toBe(2);
    browser.close();
  });

  test.each([
    ["http/1.1", "auto", 1],
    ["h2", "auto", 3],
    ["h3", "auto", 3],
    ["", "auto", 3],
    ["h2", true, 1],
    ["http/1.1", false, 3],
  ] as const)("or not: over %s with share: %s there are %s for three tabs", async (protocol, share, count) => {
    const browser = new Browser();
    browser.protocol = protocol;
    browser.service.change("a");
    for (let number = 0; number < 3; number++) await browser.follow({ share });
    await browser.clock.pass(100);
    expect(browser.isUpToDate).toBe(true);
    expect(browser.service.liveStreams.length).toBe(count);
    browser.close();
  });

  test("while it is not known how the server is reached, they share", async () => {
    const browser = new Browser();
    browser.service.change("a");
    const hanging = (tab: Tab) => {
      const environment = tab.environment();
      const fetch: typeof environment.fetch = (url, init) =>
        url.endsWith("/api/config") ? new Promise(() => {}) : environment.fetch(url, init);
      return { ...environment, fetch };
    };
    for (let number = 0; number < 3; number++) {
      const tab = browser.open();
      await tab.follow({ share: "auto", environment: hanging(tab) });
    }
    await browser.clock.pass(4_000);
    expect(browser.isUpToDate).toBe(true);
    expect(browser.service.liveStreams.length).toBe(1);
    browser.close();
  });
});

test("what is subscribed to is told of a status that is only the leader's", async () => {
  const { browser, tabs } = await browserWith(2);
  const seen: string[] = [];
  const leave = tabs[1]?.live.subscribe(() => seen.push(tabs[1]?.live.status ?? ""));
  browser.service.degrade();
  await browser.clock.pass(0);
  expect(seen.at(-1)).toBe("catching_up");
  expect(tabs[1]?.live.reason).toBe("degraded");
  leave?.();
  browser.service.recover();
  await browser.clock.pass(0);
  expect(seen.at(-1)).toBe("catching_up");
  expect(tabs[1]?.live.status).toBe("live");
  browser.close();
});

test("it works with the channels of a real browser or Node", async () => {
  const { browser } = await browserWith(0);
  browser.service.change("a");
  const tabs: Tab[] = [];
  for (let number = 0; number < 3; number++) {
    const tab = browser.open();
    await tab.follow({ environment: { ...tab.environment(), BroadcastChannel } });
    tabs.push(tab);
  }
  await vi.waitFor(async () => {
    await browser.clock.pass(1);
    expect(tabs.map(({ live }) => live.status)).toEqual(["live", "live", "live"]);
  });
  browser.service.change("a", { status: "done" });
  await vi.waitFor(async () => {
    await browser.clock.pass(1);
    expect(browser.isUpToDate).toBe(true);
  });
  expect(browser.service.liveStreams.length).toBe(1);
  browser.close();
});

test("it works where there is no page at all", async () => {
  const browser = new Browser();
  browser.service.change("a");
  const { Date, Math, setTimeout, clearTimeout, fetch } = browser.open().environment();
  const live = createSharedStream({
    sessionId: SESSION,
    user: "ada",
    environment: { Date, Math, setTimeout, clearTimeout, fetch },
  });
  await browser.clock.pass(0);
  expect(live.status).toBe("live");
  live.stop();
});
