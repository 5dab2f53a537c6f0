/** Tokens that are refused, run out, or cannot be had. */

import { describe, expect, test } from "vitest";
import { createAuth, type TokenReason } from "../src/index.js";
import { fault } from "./support/fault.js";
import { Page } from "./support/page.js";
import { event } from "./support/service.js";

/** Somewhere that tokens come from. */
class Issuer {
  readonly asked: TokenReason[] = [];
  tokens: (string | null | Error)[] = [];
  fetching = 0;
  most = 0;

  getToken = async (reason: TokenReason): Promise<string | null> => {
    this.asked.push(reason);
    this.most = Math.max(this.most, ++this.fetching);
    await Promise.resolve();
    this.fetching--;
    const token = this.tokens.length > 1 ? this.tokens.shift() : this.tokens[0];
    if (token instanceof Error) throw token;
    return token ?? null;
  };
}

function pageWith(accepted: string[], ...tokens: (string | null | Error)[]): { page: Page; issuer: Issuer } {
  const page = new Page();
  page.service.change("a");
  page.service.tokens = new Set(accepted);
  const issuer = new Issuer();
  issuer.tokens = tokens;
  return { page, issuer };
}

test.each(["sse", "poll"] as const)(`${fault(19)}a refused token is replaced once, at once (%s)`, async (transport) => {
  const { page, issuer } = pageWith(["new"], "old", "new");
  await page.follow({ transport, auth: issuer });
  await page.clock.pass(0);
  expect(page.isUpToDate).toBe(true);
  expect(issuer.asked).toEqual(["start", "unauthorized"]);
  expect(page.service.asked[0]?.token).toBe("old");
  expect(page.service.asked.at(-1)?.token).toBe("new");
  expect(page.service.asked.every(({ url }) => !url.search.includes("new") && !url.search.includes("old"))).toBe(true);
  page.live.stop();
});

test(`${fault(19)}five streams that share it have it replaced once`, async () => {
  const { page, issuer } = pageWith(["new"], "old", "new");
  const auth = createAuth(issuer, () => page.clock.now);
  const pages = [page];
  for (let number = 1; number < 5; number++) pages.push(new Page(page.clock, page.service));
  for (const each of pages) void each.follow({ auth });
  await page.clock.pass(100);
  expect(pages.map(({ live }) => live.status)).toEqual(Array(5).fill("live"));
  expect(issuer.asked).toEqual(["start", "unauthorized"]);
  expect(issuer.most).toBe(1);
  for (const { live } of pages) live.stop();
});

test(`${fault(19)}who hears late that the old one was refused does not have the new one replaced`, async () => {
  const { page, issuer } = pageWith(["new"], "old", "new", "never");
  const auth = createAuth(issuer, () => page.clock.now);
  const late = new Page(page.clock, page.service);
  const { fetch } = page.service;
  const slowly = async (url: string, init: RequestInit) => {
    const response = await fetch(url, init);
    await new Promise<void>((resolve) => page.clock.timersOf("network").setTimeout(resolve, 500));
    return response;
  };
  void late.follow({ auth, environment: { ...late.environment(), fetch: slowly } });
  await page.follow({ auth });
  await page.clock.pass(2_000);
  expect([page.live.status, late.live.status]).toEqual(["live", "live"]);
  expect(issuer.asked).toEqual(["start", "unauthorized"]);
  page.live.stop();
  late.live.stop();
});

test.each(["sse", "poll"] as const)(
  "a second token that is refused within a minute is the last (%s)",
  async (transport) => {
    const { page, issuer } = pageWith(["none"], "one", "two", "three");
    await page.follow({ transport, auth: issuer });
    await page.clock.pass(100_000);
    expect([page.live.status, page.live.reason]).toEqual(["stopped", "unauthorized"]);
    expect(issuer.asked.length).toBe(2);
  },
);

test("tokens that are refused after they were accepted are replaced every time", async () => {
  const { page, issuer } = pageWith(["0"], "0", "1", "2", "3", "4");
  await page.follow({ auth: issuer });
  for (let number = 1; number < 5; number++) {
    page.service.tokens = new Set([String(number)]);
    page.service.resetAll();
    await page.clock.pass(2_000);
    expect(page.live.status).toBe("live");
  }
  page.live.stop();
});

test("no token, for good, ends it", async () => {
  const { page, issuer } = pageWith([], null);
  await page.follow({ auth: issuer });
  expect([page.live.status, page.live.reason]).toEqual(["stopped", "unauthorized"]);
  expect(page.service.asked).toEqual([]);
});

test(`${fault(21)}where no token can be had, it asks again with longer and longer waits`, async () => {
  const { page, issuer } = pageWith(["late"], new Error("500"));
  await page.follow({ auth: issuer });
  await page.clock.pass(600_000);
  expect([page.live.status, page.live.reason]).toEqual(["reconnecting", "auth"]);
  expect(issuer.asked.length).toBeLessThan(120);
  expect(page.service.asked).toEqual([]);
  issuer.tokens = ["late"];
  await page.clock.pass(31_000);
  expect(page.live.status).toBe("live");
  page.live.stop();
});

test("a token that never comes is given up for another after half a minute", async () => {
  const { page } = pageWith(["second"]);
  let asked = 0;
  const getToken = () => (++asked === 1 ? new Promise<string>(() => {}) : Promise.resolve("second"));
  await page.follow({ auth: { getToken } });
  await page.clock.pass(29_000);
  expect(page.live.status).toBe("connecting");
  await page.clock.pass(10_000);
  expect(page.live.status).toBe("live");
  page.live.stop();
});

test("a token that comes after it was given up does not take the place of the next", async () => {
  const { page } = pageWith(["second"]);
  const given: ((token: string) => void)[] = [];
  await page.follow({ auth: { getToken: () => new Promise<string>((resolve) => given.push(resolve)) } });
  await page.clock.pass(35_000);
  expect(given.length).toBe(2);
  given[1]?.("second");
  await page.clock.pass(0);
  given[0]?.("first");
  await page.clock.pass(0);
  expect(page.live.status).toBe("live");
  page.service.resetAll();
  await page.clock.pass(1_000);
  expect(page.live.status).toBe("live");
  expect([...new Set(page.service.asked.map(({ token }) => token))]).toEqual(["second"]);
  page.live.stop();
});

test("a token that comes after the end changes nothing", async () => {
  const { page } = pageWith(["token"]);
  const given: ((token: string) => void)[] = [];
  await page.follow({ auth: { getToken: () => new Promise<string>((resolve) => given.push(resolve)) } });
  page.live.stop();
  given[0]?.("token");
  await page.clock.pass(0);
  expect(page.service.asked).toEqual([]);
  expect(page.clock.pending("client")).toBe(0);
});

describe("a token that runs out", () => {
  test(`${fault(20)}is replaced beside the stream, without a gap`, async () => {
    const { page, issuer } = pageWith(["one", "two"], "one", "two");
    await page.follow({ auth: issuer });
    const statuses = page.statuses.length;
    page.service.say(event("token_expiring", { expires_at: 1, in_ms: 30_000 }));
    for (let time = 0; time < 300; time++) {
      page.service.change("a");
      await page.clock.pass(100);
      expect(page.isUpToDate).toBe(true);
    }
    expect(page.statuses.length).toBe(statuses);
    expect(issuer.asked).toEqual(["start", "expiring"]);
    expect(page.service.liveStreams.map(({ token }) => token)).toEqual(["two"]);
    const told = page.updates.map(({ row }) => row.version);
    expect(told).toEqual([...new Set(told)]);
    page.live.stop();
  });

  test("is replaced by a stream that tells everything anew, if it must; the old one is heard no more", async () => {
    const { page, issuer } = pageWith(["one", "two"], "one", "two");
    await page.follow({ auth: issuer });
    page.service.say(event("token_expiring", { expires_at: 1, in_ms: 4_000 }));
    page.service.stallAll();
    page.service.restore();
    page.service.weather = "stalls";
    await page.clock.pass(3_000);
    expect(page.live.status).toBe("catching_up");
    expect(page.service.liveStreams.map(({ token }) => token)).toEqual(["two"]);
    page.service.weather = "fine";
    await page.clock.pass(20_000);
    expect(page.isUpToDate).toBe(true);
    page.live.stop();
  });

  test("is replaced in time even if that fails at first, and the stream lives on meanwhile", async () => {
    const { page, issuer } = pageWith(["one", "two"], "one", new Error("500"), new Error("500"), "two");
    await page.follow({ auth: issuer });
    page.service.say(event("token_expiring", { expires_at: 1, in_ms: 30_000 }));
    await page.clock.pass(25_000);
    expect(page.statuses).toEqual(["connecting", "catching_up", "live"]);
    expect(page.service.liveStreams.map(({ token }) => token)).toEqual(["two"]);
    page.live.stop();
  });

  test("is fetched again soon after a failure, however often an earlier one had failed", async () => {
    const failures = Array.from({ length: 7 }, () => new Error("500"));
    const { page, issuer } = pageWith(["one", "two"], "one", ...failures, "two", new Error("500"));
    page.dice = () => 0.999;
    await page.follow({ auth: issuer });
    page.service.say(event("token_expiring", { expires_at: 1, in_ms: 1_000 }));
    await page.clock.pass(300_000);
    expect(page.service.liveStreams.map(({ token }) => token)).toEqual(["two"]);
    const asked = issuer.asked.length;
    page.service.say(event("token_expiring", { expires_at: 1, in_ms: 1_000 }));
    await page.clock.pass(3_000);
    expect(issuer.asked.length - asked).toBeGreaterThanOrEqual(3);
    page.live.stop();
  });

  test(`${fault(20)}and has run out is replaced, too; but it is the end where it cannot be`, async () => {
    const farewell = { reason: "token_expired", resume: false, retry_ms: 100 };
    const { page, issuer } = pageWith(["one", "two"], "one", "two");
    await page.follow({ auth: issuer });
    page.service.goodbye(farewell);
    await page.clock.pass(1_000);
    expect(page.live.status).toBe("live");
    page.live.stop();

    const guest = new Page();
    await guest.follow();
    guest.service.goodbye(farewell);
    await guest.clock.pass(1_000);
    expect([guest.live.status, guest.live.reason]).toEqual(["stopped", "unauthorized"]);
  });
});

test(`who stops one stream and starts another as somebody else sees nothing of the first`, async () => {
  const { page, issuer } = pageWith(["one"], "one");
  await page.follow({ auth: issuer });
  page.live.stop();
  const other = new Page(page.clock);
  other.service.tokens = new Set(["other"]);
  await other.follow({ auth: { getToken: () => "other" } });
  page.service.change("a");
  await page.clock.pass(60_000);
  expect(page.updates.length).toBe(1);
  expect(other.shown).toEqual([]);
  expect(page.service.liveStreams).toEqual([]);
  expect(other.service.asked.every(({ token }) => token === "other")).toBe(true);
  other.live.stop();
});
