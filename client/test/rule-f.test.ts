/** When polling takes the place of a stream, when it does not, and how a stream comes back. */

import { describe, expect, test } from "vitest";
import { fault } from "./support/fault.js";
import { Page } from "./support/page.js";
import { event, SESSION } from "./support/service.js";

const isStream = ({ url }: { url: URL }) => url.pathname === `/api/sse/${SESSION}`;

async function pageIn(prepare: (page: Page) => void): Promise<Page> {
  const page = new Page();
  page.service.change("a");
  prepare(page);
  await page.follow();
  return page;
}

describe("a: no first event within 8 s, twice", () => {
  test.each(["mutes", "hangs", "mumbles"] as const)(
    `${fault(12)}it polls within 20 s where something %s`,
    async (weather) => {
      const page = await pageIn(({ service }) => {
        service.weather = weather;
      });
      expect(await page.untilUpToDate(20_000)).toBeLessThanOrEqual(2_000);
      await page.clock.pass(20_000, () => page.live.status === "polling");
      expect(page.live.status).toBe("polling");
      expect(page.live.reason).toBe("mute");
      expect(page.service.asked.filter(isStream).length).toBe(2);
      page.live.stop();
    },
  );

  test("a stream that ends before its first event counts as mute", async () => {
    const page = await pageIn(({ service }) => {
      service.weather = "ends";
    });
    await page.clock.pass(2_000);
    expect([page.live.status, page.live.reason]).toEqual(["polling", "mute"]);
    expect(page.service.asked.filter(isStream).length).toBe(2);
    page.live.stop();
  });

  test("once is not enough, even if nobody was there in between", async () => {
    const page = await pageIn(({ service }) => {
      service.weather = "mutes";
    });
    await page.clock.pass(8_000);
    page.service.weather = "refuses";
    await page.clock.pass(60_000);
    expect(page.live.status).toBe("reconnecting");
    page.service.weather = "mutes";
    const before = page.service.asked.filter(isStream).length;
    await page.clock.pass(60_000, () => page.live.status === "polling");
    expect(page.service.asked.filter(isStream).length).toBe(before + 1);
    page.live.stop();
  });
});

test(`${fault(14)}b: three short lives ask for a livelier stream, three more mean polling, one try a second at most`, async () => {
  const page = await pageIn(({ service }) => {
    service.weather = "cuts";
  });
  await page.clock.pass(60_000, () => page.live.status === "polling");
  expect(page.live.status).toBe("polling");
  const tries = page.service.asked.filter(isStream);
  expect(tries.map(({ url }) => url.searchParams.get("hb"))).toEqual([null, null, null, "1000", "1000", "1000"]);
  for (let number = 2; number < tries.length; number++)
    expect((tries[number]?.at ?? 0) - (tries[number - 1]?.at ?? 0)).toBeGreaterThanOrEqual(number === 3 ? 0 : 1_000);
  page.live.stop();
});

test("b: lives that a goodbye ends, or that we end ourselves, do not count", async () => {
  const page = await pageIn(() => {});
  for (let time = 0; time < 10; time++) {
    page.service.goodbye({ reason: "max_age", resume: true, retry_ms: 10 });
    await page.clock.pass(1_000);
    page.tellDocument("freeze");
    page.tellDocument("resume");
    await page.clock.pass(0);
  }
  expect(page.live.status).toBe("live");
  expect(page.service.asked.some(({ url }) => url.searchParams.has("hb"))).toBe(false);
  page.live.stop();
});

test.each(["html", 406, 415, 501] as const)(
  `${fault(16)}c: it polls at once where a stream is answered with %s`,
  async (weather) => {
    const page = await pageIn(({ service }) => {
      service.weather = weather;
    });
    await page.clock.pass(0);
    expect(page.live.status).toBe("polling");
    expect(page.live.reason).toBe(weather === "html" ? "no_stream" : `http_${weather}`);
    expect(page.isUpToDate).toBe(true);
    page.live.stop();
  },
);

test.each([429, 503])(
  `${fault(47)}${fault(29)}d: a %i means polling, not before the time that it names`,
  async (status) => {
    const page = await pageIn(({ service }) => {
      service.weather = status;
      service.retryAfter = 7;
    });
    expect(page.live.status).toBe("polling");
    await page.clock.pass(6_900);
    expect(page.service.asked.length).toBe(1);
    await page.clock.pass(3_000);
    expect(page.isUpToDate).toBe(true);
    const polls = page.service.asked.filter((asked) => !isStream(asked));
    if (status === 429) {
      await page.clock.pass(20_000);
      const times = page.service.asked.filter((asked) => !isStream(asked)).map(({ at }) => at);
      for (const [number, at] of times.slice(1).entries())
        expect(at - (times[number] ?? 0)).toBeGreaterThanOrEqual(7_000 * 0.8);
      expect(page.service.asked.every(({ url }) => !Number(url.searchParams.get("wait")))).toBe(true);
    } else expect(polls.length).toBeGreaterThan(1);
    page.live.stop();
  },
);

test(`${fault(48)}e: told to poll it polls, and tries streams again later`, async () => {
  const page = await pageIn(() => {});
  page.service.weather = 503;
  page.service.goodbye({ reason: "switched_off", resume: false, retry_ms: 500, transport: "poll" });
  page.service.change("a", { status: "done" });
  await page.clock.pass(1_000);
  expect(page.live.status).toBe("polling");
  expect(page.live.reason).toBe("switched_off");
  expect(page.isUpToDate).toBe(true);
  page.service.weather = "fine";
  await page.clock.pass(40_000);
  expect(page.live.status).toBe("live");
  page.live.stop();
});

test("e: an error that is not to be retried means polling, any other one another stream", async () => {
  for (const [retryable, status] of [
    [false, "polling"],
    [true, "reconnecting"],
  ] as const) {
    const page = await pageIn(() => {});
    page.service.say(
      `event: error\ndata: ${JSON.stringify({ error: "x", session_id: SESSION, code: "internal", retryable })}\n\n`,
    );
    page.service.endAll();
    await page.clock.pass(0);
    expect(page.live.status, fault(45)).toBe(status);
    expect(page.live.reason).toBe("internal");
    page.live.stop();
  }
});

test("f: it polls where bodies cannot be read as they come", async () => {
  const page = new Page();
  page.service.change("a");
  const environment = page.environment();
  const { fetch } = page.service;
  const bodiless = async (url: string, init: RequestInit) => {
    const response = await fetch(url, init);
    return url.includes("/sse/")
      ? ({ status: 200, ok: true, headers: response.headers, body: null } as Response)
      : response;
  };
  await page.follow({ environment: { ...environment, fetch: bodiless } });
  await page.clock.pass(0);
  expect(page.live.status).toBe("polling");
  expect(page.isUpToDate).toBe(true);
  page.live.stop();
});

test.each([401, 403, 404, 204])(`${fault(22)}${fault(23)}never on %i: that ends it`, async (weather) => {
  const page = await pageIn(({ service }) => {
    service.weather = weather;
  });
  expect(page.live.status).toBe("stopped");
  expect(page.live.reason).toBe(weather === 401 ? "unauthorized" : `http_${weather}`);
  await page.clock.pass(100_000);
  expect(page.service.asked.length).toBe(1);
  expect(page.clock.pending("client")).toBe(0);
});

test("never where only streams are wanted: it goes on trying", async () => {
  const page = new Page();
  page.service.weather = "html";
  await page.follow({ transport: "sse" });
  await page.clock.pass(100_000);
  expect(page.live.status).toBe("reconnecting");
  expect(page.service.asked.every(isStream)).toBe(true);
  page.service.weather = "fine";
  await page.clock.pass(31_000);
  expect(page.live.status).toBe("live");
  page.live.stop();
});

describe("back up", () => {
  test("it tries again after about 30 s, 1, 2, 5, 10, 10 minutes", async () => {
    const page = await pageIn(({ service }) => {
      service.weather = "html";
    });
    await page.clock.pass(2_000_000);
    const times = page.service.asked.filter(isStream).map(({ at }) => at);
    const waits = times.slice(1).map((at, number) => Math.round((at - (times[number] ?? 0)) / 1_000));
    expect(waits).toEqual([30, 60, 120, 300, 600, 600]);
    page.live.stop();
  });

  test(`${fault(54)}it polls until the stream is synced, and nothing is applied twice`, async () => {
    const page = await pageIn(({ service }) => {
      service.weather = "html";
    });
    page.service.weather = "fine";
    const statuses = page.statuses.length;
    for (let time = 0; time < 300; time++) {
      page.service.change("abc"[time % 3] as string);
      await page.clock.pass(200);
      expect(await page.untilUpToDate(2_000)).toBeLessThanOrEqual(1_500);
    }
    expect(page.statuses.slice(statuses)).toEqual(["live"]);
    const told = page.updates.map(({ row }) => `${row.request_id} ${row.version}`);
    expect(new Set(told).size).toBe(told.length);
    page.live.stop();
  });

  test.each(["online", "visible"])("it tries at once when the page is %s", async (what) => {
    const page = await pageIn(({ service }) => {
      service.weather = "html";
    });
    page.service.weather = "fine";
    page.hide();
    if (what === "online") page.tell("online");
    else page.show();
    await page.clock.pass(0);
    expect(page.live.status).toBe("live");
    page.live.stop();
  });

  test("a stream that has to tell everything anew takes over before that", async () => {
    const page = await pageIn(({ service }) => {
      service.weather = "html";
    });
    await page.clock.pass(1_000);
    page.service.weather = "fine";
    page.service.pollWeather = "hangs";
    page.service.restore();
    await page.clock.pass(40_000);
    expect(page.live.status).toBe("live");
    expect(page.isUpToDate).toBe(true);
    page.live.stop();
  });

  test(`${fault(26)}a stream beside the polls that speaks of an epoch that they have left does not take over`, async () => {
    const page = await pageIn(({ service }) => {
      service.weather = "html";
    });
    for (let time = 0; time < 5; time++) page.service.change("a");
    await page.clock.pass(1_000);
    page.service.weather = "stalls";
    page.tell("online");
    await page.clock.pass(1_000);
    const [stream] = page.service.liveStreams;
    const [old] = page.service.states;
    page.service.restore();
    await page.clock.pass(1_000);
    expect(page.isUpToDate).toBe(true);
    if (stream) stream.wire.stalled = false;
    stream?.wire.send(event("request_update", { ...old, version: 50, cause: "catchup" }));
    stream?.wire.send(event("synced", { cursor: page.service.cursor }, page.service.cursor));
    await page.clock.pass(1_000);
    expect(page.isUpToDate).toBe(true);
    page.live.stop();
  });

  test("a stream that came back is as good as any: one short life does not end it, and no probe follows", async () => {
    const page = await pageIn(({ service }) => {
      service.weather = "cuts";
    });
    await page.clock.pass(60_000, () => page.live.status === "polling");
    page.service.weather = "fine";
    page.tell("online");
    await page.clock.pass(0);
    expect(page.live.status).toBe("live");
    const asked = page.service.asked.filter(isStream).length;
    page.service.resetAll();
    await page.clock.pass(0);
    expect(page.live.status).toBe("reconnecting");
    await page.clock.pass(120_000);
    expect(page.live.status).toBe("live");
    expect(page.service.asked.filter(isStream).length).toBe(asked + 1);
    page.live.stop();
  });

  test("it tries at once when the network is another, and does not try again while that stream lives", async () => {
    const page = new Page();
    const connection = new EventTarget();
    page.service.weather = "html";
    await page.follow({ environment: { ...page.environment(), navigator: { connection } } });
    page.service.weather = "fine";
    connection.dispatchEvent(new Event("change"));
    await page.clock.pass(0);
    expect(page.live.status).toBe("live");
    await page.clock.pass(120_000);
    expect(page.service.asked.filter(isStream).length).toBe(2);
    page.live.stop();
  });

  test("while the browser says that it is offline, it does not try", async () => {
    const page = await pageIn(({ service }) => {
      service.weather = "html";
    });
    page.tell("offline");
    await page.clock.pass(1_000_000);
    expect(page.service.asked.filter(isStream).length).toBe(1);
    page.service.weather = "fine";
    page.tell("online");
    await page.clock.pass(0);
    expect(page.live.status).toBe("live");
    page.live.stop();
  });
});

describe("what a browser session remembers", () => {
  async function again(before: Page): Promise<Page> {
    const page = new Page(before.clock, before.service);
    for (const [key, value] of before.memory) page.memory.set(key, value);
    await page.follow();
    return page;
  }

  test("where no stream ever worked, the next page begins with polling, for ten minutes", async () => {
    const first = await pageIn(({ service }) => {
      service.weather = "html";
    });
    first.live.stop();
    first.service.weather = "fine";
    const second = await again(first);
    await second.clock.pass(1_000);
    expect(second.live.status).toBe("polling");
    second.live.stop();
    first.clock.now += 600_000;
    const third = await again(first);
    expect(third.live.status).toBe("live");
    third.live.stop();
  });

  test("where one worked, it does not", async () => {
    const first = await pageIn(() => {});
    first.service.weather = "html";
    first.service.resetAll();
    await first.clock.pass(3_000);
    expect(first.live.status).toBe("polling");
    first.live.stop();
    first.service.weather = "fine";
    const second = await again(first);
    expect(second.live.status).toBe("live");
    second.live.stop();
  });

  test("a storage that is forbidden is no harm", async () => {
    const page = new Page();
    const environment = page.environment();
    Object.defineProperty(environment, "sessionStorage", {
      get() {
        throw new DOMException("denied", "SecurityError");
      },
    });
    await page.follow({ environment });
    expect(page.live.status).toBe("live");
    page.live.stop();
  });
});
