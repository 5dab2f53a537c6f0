/** The same users get streams here and in Python. */

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { bucketOf, byServer, byShare, isChosen } from "../src/rollout.js";
import { fault } from "./support/fault.js";
import { Page } from "./support/page.js";

const SHARED = new URL("../../tests/vectors/rollout.json", import.meta.url);
const VECTORS: { salt: string; user: string; bucket: number }[] = JSON.parse(readFileSync(SHARED, "utf-8"));

test.each(VECTORS)("$salt:$user is in bucket $bucket", ({ salt, user, bucket }) => {
  expect(bucketOf(user, salt)).toBe(bucket);
});

test("there are vectors", () => expect(VECTORS.length).toBeGreaterThan(5));

test(`${fault(49)}shares are as large as they say, and widening takes nobody out`, () => {
  const users = Array.from({ length: 20_000 }, (_, number) => `user-${number}`);
  let before = new Set<string>();
  for (const percent of [0, 1, 5, 10, 50, 100]) {
    const chosen = new Set(users.filter((user) => isChosen(user, "s", percent)));
    expect(Math.abs(chosen.size / 200 - percent)).toBeLessThan(1);
    expect([...before].every((user) => chosen.has(user))).toBe(true);
    before = chosen;
  }
  expect(before.size).toBe(users.length);
});

test(`${fault(49)}who is chosen streams, who is not polls and never tries to stream`, async () => {
  for (const [user, status] of [
    ["auth0|123", "live"],
    ["用户1", "polling"],
  ] as const) {
    const page = new Page();
    await page.follow({ rollout: byShare({ percent: 50, salt: "sse-v1", user }) });
    await page.clock.pass(1_000_000);
    expect(page.live.status).toBe(status);
    expect(page.service.asked.some(({ url }) => url.pathname.startsWith("/api/sse"))).toBe(status === "live");
    page.live.stop();
  }
});

test.each([
  ["sse", "live"],
  ["poll", "polling"],
] as const)("where the service says %s, it is %s", async (transport, status) => {
  const page = new Page();
  page.service.transport = transport;
  await page.follow({ rollout: byServer });
  await page.clock.pass(1_000);
  expect(page.live.status).toBe(status);
  page.live.stop();
});

test("a service that never says is not waited for, and nothing is left of that", async () => {
  const page = new Page();
  page.service.pollWeather = "hangs";
  await page.follow({ rollout: byServer });
  expect(page.live.status).toBe("idle");
  await page.clock.pass(8_000);
  expect(page.live.status).toBe("live");
  page.live.stop();
  await page.follow({ rollout: byServer });
  page.live.stop();
  await page.clock.pass(0);
  expect(page.live.status).toBe("stopped");
  expect([page.service.pending, page.clock.pending("client")]).toEqual([0, 0]);
});

test("a service that does not say is followed all the same", async () => {
  const page = new Page();
  page.service.pollWeather = 500;
  await page.follow({ rollout: byServer });
  expect(page.live.status).toBe("live");
  page.live.stop();
});
