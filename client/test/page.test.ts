/** Pages that are hidden, frozen, put away, put to sleep, or cut off. */

import { describe, expect, test } from "vitest";
import { fault } from "./support/fault.js";
import { Page } from "./support/page.js";

async function live(options: Parameters<Page["follow"]>[0] = {}): Promise<Page> {
  const page = new Page();
  page.service.change("a");
  await page.follow(options);
  expect(page.live.status).toBe("live");
  return page;
}

const streamsAsked = (page: Page) =>
  page.service.asked.filter(({ url }) => url.pathname.startsWith("/api/sse/")).length;

describe("a page that is put away", () => {
  test.each([
    ["pagehide", "pageshow"],
    ["freeze", "resume"],
  ] as const)(`lets go of everything at %s, and is up to date at once after %s`, async (away, back) => {
    for (const transport of ["auto", "poll"] as const) {
      const page = new Page();
      page.service.change("a");
      await page.follow({ transport });
      await page.clock.pass(2_000);
      const tell = (type: typeof away | typeof back) =>
        type === "freeze" || type === "resume" ? page.tellDocument(type) : page.tell(type);
      tell(away);
      await page.clock.pass(0);
      expect(page.live.status).toBe("suspended");
      expect(page.service.liveStreams).toEqual([]);
      expect(page.service.pending).toBe(0);
      expect(page.clock.pending("client")).toBe(0);
      page.service.change("a", { status: "done" });
      await page.clock.pass(30_000);
      tell(back);
      await page.clock.pass(10);
      expect(page.live.status).toBe(transport === "poll" ? "polling" : "live");
      expect(page.isUpToDate).toBe(true);
      expect(page.updates.length).toBe(2);
      page.live.stop();
    }
  });

  test("is told nothing once it was stopped", async () => {
    const page = await live();
    page.tell("pagehide");
    page.live.stop();
    page.tell("pageshow");
    page.show();
    page.tell("online");
    await page.clock.pass(60_000);
    expect(page.live.status).toBe("stopped");
    expect(streamsAsked(page)).toBe(1);
  });
});

describe("a page that is hidden", () => {
  test(`${fault(42)}keeps its stream, however late its timers come`, async () => {
    const page = await live();
    page.hide();
    for (let minute = 0; minute < 10; minute++) {
      // Bytes arrive all the time; timers run once a minute.
      for (let beat = 0; beat < 12; beat++) {
        page.clock.jump(5_000);
        page.service.say(": keep-alive\n");
        await page.clock.pass(0);
      }
      page.service.change("a");
      await page.clock.pass(14_000);
      expect(page.isUpToDate).toBe(true);
    }
    expect(streamsAsked(page)).toBe(1);
    page.live.stop();
  });

  test("lets go after as long as it was told, not when it is looked at in time, and is back when looked at", async () => {
    const page = await live({ suspendWhenHidden: 60_000 });
    page.hide();
    await page.clock.pass(59_000);
    page.show();
    await page.clock.pass(5_000);
    expect(page.live.status).toBe("live");
    page.hide();
    await page.clock.pass(60_000);
    expect(page.live.status).toBe("suspended");
    page.tell("online");
    await page.clock.pass(1_000);
    expect(page.live.status).toBe("suspended");
    page.service.change("a");
    page.show();
    await page.clock.pass(0);
    expect(page.isUpToDate).toBe(true);
    page.live.stop();
  });

  test("polls four times less often", async () => {
    const page = new Page();
    page.service.change("a");
    page.service.maxWait = 0;
    await page.follow({ transport: "poll" });
    await page.clock.pass(60_000);
    const shown = page.service.asked.length;
    page.hide();
    await page.clock.pass(60_000);
    const hidden = page.service.asked.length - shown;
    expect(shown / hidden).toBeGreaterThan(3.5);
    page.live.stop();
  });

  test("connects anew when it is looked at, if the stream has been silent", async () => {
    const page = await live();
    page.hide();
    await page.clock.pass(1_000);
    page.service.stallAll();
    page.service.change("a");
    await page.clock.pass(7_000);
    expect(streamsAsked(page)).toBe(1);
    page.show();
    await page.clock.pass(0);
    expect(page.isUpToDate).toBe(true);
    page.live.stop();
  });
});

describe("a machine that slept", () => {
  test.each(["auto", "poll"] as const)(
    `${fault(40)}is up to date seconds after it woke (%s), with no storm of timers`,
    async (transport) => {
      const page = new Page();
      page.service.change("a");
      await page.follow({ transport });
      await page.clock.pass(3_000);
      page.service.stallAll();
      page.service.change("a", { status: "done" });
      const asked = page.service.asked.length;
      page.clock.jump(600_000);
      expect(await page.untilUpToDate(10_000)).toBeLessThanOrEqual(5_000);
      expect(page.service.asked.length - asked).toBeLessThanOrEqual(3);
      expect(page.clock.pending("client")).toBeLessThanOrEqual(4);
      page.live.stop();
    },
  );

  test("does not sit out a wait that began before", async () => {
    const page = await live();
    page.service.weather = page.service.pollWeather = "refuses";
    page.service.resetAll();
    await page.clock.pass(300_000);
    page.service.weather = page.service.pollWeather = "fine";
    page.clock.jump(600_000);
    await page.clock.pass(5_000);
    expect(page.live.status).toBe("live");
    page.live.stop();
  });
});

test(`a network that comes and goes leads to one connection, and none at once beside another`, async () => {
  const page = await live();
  for (let time = 0; time < 20; time++) {
    page.tell("offline");
    page.service.weather = page.service.pollWeather = "refuses";
    if (time % 3 === 0) page.service.resetAll();
    await page.clock.pass(250);
    page.service.weather = page.service.pollWeather = "fine";
    page.tell("online");
    await page.clock.pass(250);
    expect(page.service.liveStreams.length).toBeLessThanOrEqual(1);
    expect(page.service.pending).toBeLessThanOrEqual(1);
  }
  await page.clock.pass(1_000);
  expect(page.live.status).toBe("live");
  expect(page.service.liveStreams.length).toBe(1);
  page.live.stop();
});

test("offline is no reason to tear down what works", async () => {
  const page = await live();
  page.tell("offline");
  page.service.change("a");
  await page.clock.pass(60_000);
  expect(page.isUpToDate).toBe(true);
  expect(streamsAsked(page)).toBe(1);
  page.live.stop();
});

test(`sessions that follow each other fast leave one connection, and nothing of one is shown in another`, async () => {
  const page = new Page();
  page.service.change("a");
  for (let time = 0; time < 5; time++) {
    void page.follow();
    const { live } = page;
    live.stop();
    live.stop();
  }
  await page.follow();
  expect(page.service.liveStreams.length).toBe(1);
  expect(page.updates.length).toBe(1);
  page.live.stop();
});

test("asked to, it tries at once, whatever it was waiting for", async () => {
  const page = await live();
  page.service.weather = page.service.pollWeather = "refuses";
  page.service.resetAll();
  await page.clock.pass(300_000);
  page.service.weather = page.service.pollWeather = "fine";
  page.live.reconnect();
  await page.clock.pass(0);
  expect(page.live.status).toBe("live");
  page.tell("pagehide");
  page.live.reconnect();
  await page.clock.pass(0);
  expect(page.live.status).toBe("live");
  page.live.stop();
});

test("it works where there is no page at all", async () => {
  const page = new Page();
  page.service.change("a");
  const { Date, Math, setTimeout, clearTimeout, fetch } = page.environment();
  await page.follow({ environment: { Date, Math, setTimeout, clearTimeout, fetch } });
  expect(page.live.status).toBe("live");
  page.live.stop();
});
