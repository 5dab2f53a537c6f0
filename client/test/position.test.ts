/** Where a client stands: it may be handed on only while everything up to there is in the snapshot. */

import { expect, test } from "vitest";
import { Page } from "./support/page.js";
import { event } from "./support/service.js";

test("it is known once a stream is synced, and moves on with it", async () => {
  const page = new Page();
  page.service.change("a");
  const following = page.follow({ initial: { requests: [], cursor: "1.epoch-1.1" } });
  expect(page.live.getPosition()).toBeUndefined();
  await following;
  expect(page.live.getPosition()).toEqual({ epoch: "epoch-1", cursor: page.service.cursor });
  page.service.change("a");
  await page.clock.pass(0);
  expect(page.live.getPosition()?.cursor).toBe(page.service.cursor);
  page.service.resetAll();
  page.service.change("a");
  await page.clock.pass(0);
  expect(page.live.getPosition()?.cursor).not.toBe(page.service.cursor);
  page.live.stop();
});

test("it is known from polls, too", async () => {
  const page = new Page();
  page.service.change("a");
  await page.follow({ transport: "poll" });
  await page.clock.pass(0);
  expect(page.live.getPosition()).toEqual({ epoch: "epoch-1", cursor: page.service.cursor });
  page.live.stop();
});

test("it is not known between two epochs", async () => {
  const page = new Page();
  page.service.change("a");
  await page.follow();
  const begun = { epoch: "epoch-2", heartbeat_ms: 5_000, mode: "resync" };
  const requests = [{ ...page.service.states[0], version: 1 }];
  page.service.say(event("connected", begun));
  await page.clock.pass(0);
  expect(page.live.getPosition()).toBeUndefined();
  page.service.say(event("snapshot", { epoch: "epoch-2", requests, part: 1, more: true }));
  await page.clock.pass(0);
  expect(page.live.getPosition()).toBeUndefined();
  page.service.say(event("snapshot", { epoch: "epoch-2", requests, part: 2, more: false }, "1.epoch-2.1"));
  await page.clock.pass(0);
  expect(page.live.getPosition()).toEqual({ epoch: "epoch-2", cursor: "1.epoch-2.1" });
  page.live.stop();
});
