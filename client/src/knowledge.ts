/** What a client knows of a session, and up to where. */

import type { ServerEvent } from "./parser.js";
import type { RequestState, SessionRows, Snapshot } from "./protocol.js";
import type { Store, Teller } from "./store.js";

/** The data of an event, which nobody has checked. */
export type Data = Readonly<Record<string, unknown>>;

/**
 * **Nothing that is not understood is lost.** An event that makes no sense is skipped, and its stream goes on being
 * read. But every later id claims the skipped event, too: adopted, it would never be told again. So from then on no id
 * of this stream is adopted; another that begins from the cursor before it brings it once more. If that is not
 * understood either, the cursor is forgotten: the next stream begins with everything.
 */
export interface Knowledge {
  readonly store: Store;
  cursor: string;
  /** That of the cursor: while the store's is another, it does not hold all that is claimed. */
  epoch: string;
  /** Names what the last poll saw; empty once a stream has told otherwise. */
  etag: string;
  /** How much made no sense since everything was up to date last. */
  inARow: number;
  /** Keep what an event says; return its data, or nothing if it was not understood. */
  take(teller: Teller, event: ServerEvent): Data | undefined;
  /** Keep the answer to a poll; say whether it was taken. Throws if it was not understood. */
  answer(teller: Teller, answer: SessionRows, etag: string, besideStream: boolean): boolean;
  /** Forget the cursor if hearing the same again has not helped. */
  startOver(): void;
}

export function createKnowledge(store: Store, cursor = ""): Knowledge {
  const skip = () => {
    store.counts.skipped++;
    knowledge.inARow++;
  };

  const reach = (cursor: string) => {
    knowledge.cursor = cursor;
    knowledge.epoch = store.epoch;
  };

  const keep = (teller: Teller, name: string, data: object) => {
    if (name === "connected") store.enter((data as Snapshot).epoch);
    else if (name === "snapshot") store.snapshot(teller, data as Snapshot);
    else if (name === "request_removed") store.tell(teller, data as RequestState, true);
    else if (name === "request_update") {
      const { cause, ...row } = data as RequestState & { cause?: string };
      store.tell(teller, row);
    } else return;
    // What a poll saw before could come again, as when a row came and went; then "unchanged" would not be true.
    knowledge.etag = "";
  };

  const knowledge: Knowledge = {
    store,
    cursor,
    epoch: "",
    etag: "",
    inARow: 0,
    take(teller, { name, data: text, id }) {
      try {
        const data = JSON.parse(text);
        if (Object(data) !== data) throw TypeError();
        keep(teller, name, data);
        // An event without an id of its own comes with the last one, which says nothing of this event.
        if (id && teller.sound && id !== teller.id) reach((teller.id = id));
        if (name === "synced") knowledge.inARow = 0;
        return data;
      } catch {
        teller.sound = false;
        return skip();
      }
    },
    answer(teller, answer, etag, besideStream) {
      // Another epoch than that of a stream is for the stream to tell.
      if (besideStream && answer.epoch !== store.epoch) return false;
      try {
        if (typeof answer.cursor !== "string") throw TypeError();
        if (!store.answer(teller, answer)) return false;
      } catch (error) {
        skip();
        knowledge.startOver();
        throw error;
      }
      reach(answer.cursor);
      // The stream beside it may have told more since this was asked for.
      knowledge.etag = besideStream ? "" : etag;
      knowledge.inARow = 0;
      return true;
    },
    startOver() {
      if (knowledge.inARow > 1) knowledge.cursor = knowledge.etag = "";
    },
  };
  return knowledge;
}
