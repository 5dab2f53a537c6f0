/** Newest version per row: the one place that decides what is news and what is not. */

import type { Change, Counts, Removed, RequestState, SessionRows, Snapshot, Transport } from "./protocol.js";

/**
 * One who tells of rows: a stream for as long as it lives, or the answer to one poll.
 *
 * A full answer removes what it does not name, but only what is still as the teller knew it when it began, or told it
 * since: a row that somebody else has told meanwhile may be younger than the answer.
 */
export interface Teller {
  readonly transport: Transport;
  readonly known: Map<string, RequestState>;
  /** What the parts of a snapshot have named so far, and how many there were. */
  named: Set<string>;
  parts: number;
  /** How many full answers and epochs there had been when this one began. */
  full: number;
  /** Whether everything that it said was understood. */
  sound: boolean;
  /** The last id that it said. */
  id: string;
}

/** The rows of one session. What it is told it checks first: it throws before anything of it is kept. */
export interface Store {
  readonly rows: ReadonlyMap<string, RequestState>;
  epoch: string;
  readonly counts: Counts;
  begin(transport: Transport): Teller;
  /** Versions are compared within an epoch only; another epoch comes with all rows. */
  enter(epoch: string): void;
  /** Take in one row, or that it is gone. */
  tell(teller: Teller, row: RequestState | Removed, removed?: boolean): void;
  /** Take in one part of a snapshot; with the last one, rows that none of them named are gone. */
  snapshot(teller: Teller, snapshot: Snapshot): void;
  /** Take in the answer to a poll, and say whether it still counted. */
  answer(teller: Teller, answer: SessionRows): boolean;
  /** Return what has changed since this was asked last, in order. */
  changes(): readonly Change[];
}

export function createStore(initial: readonly RequestState[]): Store {
  const rows = new Map<string, RequestState>();
  let versions = new Map<string, number>();
  let changes: Change[] = [];
  let full = 0;
  let first = !initial.length;
  const counts: Counts = { duplicates: 0, stale: 0, skipped: 0, polls: 0 };

  const check = ({ request_id, version }: Removed) => {
    if (typeof request_id !== "string" || !Number.isSafeInteger(version) || version < 1) throw TypeError();
  };

  /** Take in a row that has been checked. */
  const keep = ({ known, transport }: Teller, row: RequestState | Removed, removed = false, first = false) => {
    const { request_id: id, version } = row;
    const newest = versions.get(id) ?? 0;
    const before = rows.get(id);
    if (version < newest) counts.stale++;
    else if (version === newest) {
      counts.duplicates++;
      if (before) known.set(id, before);
    } else {
      versions.set(id, version);
      // Of a row that is gone, only its key and version are told.
      const after = Object.freeze({ ...(removed && before), ...row } as RequestState);
      if (!removed) {
        rows.set(id, after);
        known.set(id, after);
      } else if (!rows.delete(id)) return;
      changes.push({ row: after, removed, transport, first });
    }
  };

  const complete = (teller: Teller, named: ReadonlySet<string>) => {
    for (const [id, row] of rows)
      if (!named.has(id) && teller.known.get(id) === row) {
        rows.delete(id);
        changes.push({ row, removed: true, transport: teller.transport, first: false });
      }
    full++;
    first = false;
  };

  const store: Store = {
    rows,
    epoch: "",
    counts,
    begin: (transport) => ({ transport, known: new Map(rows), named: new Set(), parts: 0, full, sound: true, id: "" }),
    enter(epoch) {
      if (typeof epoch !== "string") throw TypeError();
      if (epoch === store.epoch) return;
      store.epoch = epoch;
      full++;
      versions = new Map();
    },
    tell(teller, row, removed) {
      check(row);
      keep(teller, row, removed);
    },
    snapshot(teller, { epoch, requests, part, more }) {
      requests.forEach(check);
      // Without the rows of a missing part, the last one would have them removed.
      if (part !== 1 && part !== teller.parts + 1) throw TypeError();
      store.enter(epoch);
      if (part === 1) teller.named = new Set();
      teller.parts = more ? part : 0;
      for (const row of requests) {
        teller.named.add(row.request_id);
        keep(teller, row, false, first);
      }
      if (!more) complete(teller, teller.named);
    },
    answer(teller, { epoch, mode, requests, removed }) {
      requests.forEach(check);
      removed.forEach(check);
      // Another has told everything meanwhile: what that did not name, this one must not bring back.
      if (teller.full !== full) return false;
      store.enter(epoch);
      for (const row of requests) keep(teller, row, false, first);
      if (mode === "full") complete(teller, new Set(requests.map((row) => row.request_id)));
      else for (const row of removed) keep(teller, row, true);
      return true;
    },
    changes() {
      const told = changes;
      changes = [];
      return told;
    },
  };
  for (const row of initial) store.tell(store.begin("poll"), row);
  store.changes();
  return store;
}
