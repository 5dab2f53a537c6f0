/** The rule of versions, against an oracle that knows everything. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { RequestState } from "../src/protocol.js";
import { createStore } from "../src/store.js";

function row(request_id: string, version: number, status = `v${version}`): RequestState {
  const rest = {
    session_id: "s",
    updated_at: 1,
    has_response: false,
    has_error: false,
    sequence_number: 1,
    terminal: false,
  };
  return { request_id, version, status, ...rest };
}

const poll = { interval_ms: 1, max_wait_s: 0 };
const full = (...requests: RequestState[]) => ({
  epoch: "e",
  cursor: "c",
  mode: "full" as const,
  requests,
  removed: [],
  poll,
});
const shown = (store: ReturnType<typeof createStore>) =>
  Object.fromEntries([...store.rows].map(([id, { version }]) => [id, version]));

test("told in any order and any number of times, the newest state of each row stays", () => {
  const told = fc.array(
    fc.record({ id: fc.constantFrom("a", "b", "c"), version: fc.integer({ min: 1, max: 9 }), removed: fc.boolean() }),
  );
  fc.assert(
    fc.property(told, (tellings) => {
      const store = createStore([]);
      const teller = store.begin("sse");
      const newest = new Map<string, { version: number; removed: boolean }>();
      let duplicates = 0;
      let stale = 0;
      for (const { id, version, removed } of tellings) {
        store.tell(teller, row(id, version), removed);
        const known = newest.get(id);
        if (!known || version > known.version) newest.set(id, { version, removed });
        else if (version === known.version) duplicates++;
        else stale++;
      }
      const present = [...newest].filter(([, { removed }]) => !removed);
      expect(shown(store)).toEqual(Object.fromEntries(present.map(([id, { version }]) => [id, version])));
      expect(store.counts).toMatchObject({ duplicates, stale });
      const versions = new Map<string, number>();
      for (const change of store.changes()) {
        const { request_id, version } = change.row;
        expect(version).toBeGreaterThan(versions.get(request_id) ?? 0);
        versions.set(request_id, version);
      }
    }),
    { numRuns: 2_000 },
  );
});

test("told by streams and polls that were asked at different times, it ends as the one that was asked last", () => {
  // A history of one session: at each step a row is written or deleted. Answers are read at some step and arrive later.
  const step = fc.record({
    id: fc.constantFrom("a", "b", "c"),
    removed: fc.boolean(),
    isAsked: fc.boolean(),
    late: fc.nat(3),
  });
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 20 }), (steps) => {
      const store = createStore([]);
      store.enter("e");
      const stream = store.begin("sse");
      const table = new Map<string, RequestState>();
      const versions = new Map<string, number>();
      let arrived = 0;
      const underWay: { due: number; arrive: () => void }[] = [];
      for (const [now, { id, removed, isAsked, late }] of steps.entries()) {
        if (isAsked) {
          const teller = store.begin("poll");
          const answer = full(...table.values());
          underWay.push({ due: now + late, arrive: () => store.answer(teller, answer) });
        }
        const version = (versions.get(id) ?? 0) + 1;
        if (!removed || table.has(id)) {
          versions.set(id, version);
          const state = row(id, version);
          if (removed) table.delete(id);
          else table.set(id, state);
          // The stream tells everything, in order; it may be slow.
          arrived = Math.max(arrived, now + late);
          underWay.push({ due: arrived, arrive: () => store.tell(stream, state, removed) });
        }
        for (const { arrive } of underWay.filter(({ due }) => due === now)) arrive();
      }
      for (const { arrive } of underWay.filter(({ due }) => due >= steps.length)) arrive();
      expect(shown(store)).toEqual(Object.fromEntries([...table].map(([id, { version }]) => [id, version])));
    }),
    { numRuns: 5_000 },
  );
});

test("a snapshot removes what none of its parts names", () => {
  const store = createStore([row("a", 1), row("b", 1)]);
  store.enter("e");
  const teller = store.begin("sse");
  store.snapshot(teller, { epoch: "e", requests: [row("a", 1)], part: 1, more: true });
  expect(shown(store)).toEqual({ a: 1, b: 1 });
  store.snapshot(teller, { epoch: "e", requests: [row("c", 1)], part: 2, more: false });
  expect(shown(store)).toEqual({ a: 1, c: 1 });
  expect(
    store
      .changes()
      .filter(({ removed }) => removed)
      .map(({ row }) => row.request_id),
  ).toEqual(["b"]);
});

test("a later snapshot of the same stream removes what the stream has told before", () => {
  const store = createStore([]);
  const teller = store.begin("sse");
  store.snapshot(teller, { epoch: "e", requests: [row("a", 1)], part: 1, more: false });
  store.tell(teller, row("b", 1));
  store.snapshot(teller, { epoch: "e", requests: [row("a", 1)], part: 1, more: false });
  expect(shown(store)).toEqual({ a: 1 });
});

test("and what somebody else had told before the stream did", () => {
  const store = createStore([]);
  const stream = store.begin("sse");
  store.snapshot(stream, { epoch: "e", requests: [], part: 1, more: false });
  store.tell(store.begin("poll"), row("a", 1));
  store.tell(stream, row("a", 1));
  store.snapshot(stream, { epoch: "e", requests: [], part: 1, more: false });
  expect(shown(store)).toEqual({});
});

test("a full answer keeps what somebody else has told since it was asked for", () => {
  const store = createStore([row("a", 1), row("b", 1)]);
  store.enter("e");
  const teller = store.begin("poll");
  const other = store.begin("sse");
  store.tell(other, row("b", 2));
  store.tell(other, row("c", 1));
  expect(store.answer(teller, full())).toBe(true);
  expect(shown(store)).toEqual({ b: 2, c: 1 });
});

test("an answer that was overtaken by a full one does not count", () => {
  const store = createStore([]);
  const early = store.begin("poll");
  const stream = store.begin("sse");
  store.snapshot(stream, { epoch: "e", requests: [], part: 1, more: false });
  expect(store.answer(early, full(row("a", 1)))).toBe(false);
  expect(shown(store)).toEqual({});
});

test("another epoch replaces everything, even where versions are lower", () => {
  const store = createStore([]);
  const teller = store.begin("sse");
  store.snapshot(teller, { epoch: "e", requests: [row("a", 9), row("b", 9)], part: 1, more: false });
  store.snapshot(teller, { epoch: "f", requests: [row("a", 1)], part: 1, more: false });
  expect(shown(store)).toEqual({ a: 1 });
});

describe("nothing of what makes no sense is kept", () => {
  const bad = [
    { ...row("b", 1), version: "1" },
    { ...row("b", 1), version: 0 },
    { ...row("b", 1), version: 1.5 },
    { ...row("b", 1), version: 2 ** 53 },
    { ...row("b", 1), request_id: 7 },
    null,
  ] as unknown as RequestState[];

  test.each(bad)("%j", (row_) => {
    const store = createStore([]);
    const teller = store.begin("sse");
    expect(() => store.tell(teller, row_)).toThrow();
    expect(() => store.answer(teller, full(row("a", 1), row_))).toThrow();
    const part = { epoch: "e", requests: [row("a", 1), row_], part: 1, more: false };
    expect(() => store.snapshot(teller, part)).toThrow();
    expect(shown(store)).toEqual({});
    expect(store.changes()).toEqual([]);
  });

  test("a snapshot with a hole, or of no epoch", () => {
    const store = createStore([row("z", 1)]);
    const teller = store.begin("sse");
    store.snapshot(teller, { epoch: "e", requests: [row("a", 1)], part: 1, more: true });
    expect(() => store.snapshot(teller, { epoch: "e", requests: [row("c", 1)], part: 3, more: false })).toThrow();
    expect(() => store.snapshot(teller, { epoch: 1, requests: [], part: 1, more: false } as never)).toThrow();
    expect(shown(store)).toEqual({ a: 1, z: 1 });
  });
});

test("rows cannot be changed by whoever is shown them, and a row that is gone says what it was", () => {
  const store = createStore([]);
  const teller = store.begin("sse");
  store.tell(teller, row("a", 1, "done"));
  expect(Object.isFrozen(store.rows.get("a"))).toBe(true);
  store.tell(teller, { request_id: "a", version: 2 }, true);
  expect(store.changes().at(-1)).toMatchObject({ removed: true, row: { request_id: "a", version: 2, status: "done" } });
  store.tell(teller, row("a", 3));
  expect(shown(store)).toEqual({ a: 3 });
});
