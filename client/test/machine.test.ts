/** The table, for itself: nothing is forgotten, nothing leads nowhere. */

import fc from "fast-check";
import { expect, test } from "vitest";
import { type Action, type Happening, type Status, TABLE } from "../src/machine.js";

const STATUSES = Object.keys(TABLE) as Status[];
const HAPPENINGS = [...new Set(STATUSES.flatMap((status) => Object.keys(TABLE[status])))] as Happening[];
const STEPS = STATUSES.flatMap((status) =>
  HAPPENINGS.flatMap((happening) => {
    const step = TABLE[status][happening];
    return step ? [{ status, happening, next: step[0], actions: step.slice(1) as Action[] }] : [];
  }),
);

test("every status can be reached, and left but for the last", () => {
  const reached = new Set<Status>(["idle"]);
  for (let before = 0; before < reached.size; ) {
    before = reached.size;
    for (const { status, next } of STEPS) if (reached.has(status)) reached.add(next);
  }
  expect([...reached].sort()).toEqual([...STATUSES].sort());
  expect(TABLE.stopped).toEqual({});
});

test.each(STATUSES.filter((status) => status !== "stopped"))(
  "%s can be stopped and suspended, and nothing is left",
  (status) => {
    expect(TABLE[status].stop).toEqual(["stopped", "rest"]);
    expect(TABLE[status].suspend).toEqual(["suspended", "rest"]);
  },
);

test("who waits for the next stream has closed the last one, and who is live does not poll", () => {
  for (const { next, actions, happening } of STEPS) {
    if (happening === "lost") expect([next, ...actions]).toEqual(["reconnecting", "close", "wait", "gap"]);
    if (happening === "fell") expect([next, ...actions]).toEqual(["polling", "close", "poll", "waitBeside"]);
    if (happening === "synced") expect([next, ...actions]).toEqual(["live", "promote", "hush"]);
  }
});

test("streams, polls and waits are what they should be, after any order of happenings", () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...HAPPENINGS), { maxLength: 40 }), (happenings) => {
      let status: Status = "idle";
      let streams = 0;
      let waits = false;
      let polls = false;
      for (const happening of happenings) {
        const step: readonly [Status, ...Action[]] | undefined = TABLE[status][happening];
        if (!step) continue;
        const actions = step.slice(1) as Action[];
        status = step[0];
        for (const action of actions) {
          if (action === "open") [streams, waits] = [1, false];
          if (action === "close" || action === "rest") [streams, waits] = [0, false];
          if (action === "wait") waits = true;
          if (action === "poll") polls = true;
          if (action === "hush" || action === "rest") polls = false;
        }
        if (["idle", "suspended", "stopped"].includes(status))
          expect([streams, waits, polls]).toEqual([0, false, false]);
        if (status === "connecting") expect(streams).toBe(1);
        if (status === "reconnecting") expect([streams, waits]).toEqual([0, true]);
        if (status === "live") expect(polls).toBe(false);
        if (status === "polling") expect([polls, waits]).toEqual([true, false]);
      }
    }),
    { numRuns: 10_000 },
  );
});
