import { expect, test } from "vitest";
import { Page } from "./support/page.js";

test("a session is followed from the first connection", async () => {
  const page = new Page();
  page.service.change("a");
  page.service.change("b");
  page.service.change("c");
  await page.follow();
  expect(page.live.status).toBe("live");
  expect(page.shown).toEqual(page.service.states);
  expect(page.statuses).toEqual(["connecting", "catching_up", "live"]);
  page.service.change("a", { status: "done" });
  page.service.remove("b");
  await page.clock.pass(0);
  expect(page.shown).toEqual(page.service.states);
  page.live.stop();
  await page.clock.pass(0);
  expect(page.clock.pending("client")).toBe(0);
  expect(page.service.liveStreams).toEqual([]);
});
