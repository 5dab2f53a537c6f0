/** One stream from its beginning to its end: how long it lived, whether it is alive, and what it says of itself. */

import type { Token } from "./auth.js";
import type { Refusal } from "./exchange.js";
import type { StreamListeners } from "./fetch-stream.js";
import type { Data, Knowledge } from "./knowledge.js";
import type { ServerEvent } from "./parser.js";
import type { Ended } from "./policy.js";
import { bounded } from "./protocol.js";
import type { Timers } from "./timers.js";
import { createWatchdog, patience } from "./watchdog.js";

export interface Connection {
  readonly token: Token;
  /** Whether it has said where it stands, and whether it has told everything that was missed. */
  readonly connected: boolean;
  readonly synced: boolean;
  /** Whether it has been silent for longer than it should. */
  isStale(): boolean;
  /** End it without a word. */
  close(): void;
  /** End it, and say why. */
  end(refusal: Refusal): void;
}

export interface ConnectionListeners {
  /** An event was taken in; without data, it was not understood. */
  told(connection: Connection, event: ServerEvent, data: Data | undefined): void;
  ended(connection: Connection, ended: Ended): void;
}

/** Opens a stream whose address is settled; the result closes it. */
export type Open = (on: StreamListeners) => () => void;

const FIRST_EVENT_MS = 8_000;
const TOKEN_MS = 30_000;
const HEARTBEAT_MS = 5_000;
const MOST_FLOOR_MS = 600_000;

/** `name` is that of its timer. */
export function openConnection(
  { knowledge, timers, now }: { knowledge: Knowledge; timers: Timers; now: () => number },
  name: string,
  open: Open,
  on: ConnectionListeners,
): Connection {
  const teller = knowledge.store.begin("sse");
  let heartbeat = HEARTBEAT_MS;
  let why: "auth" | "mute" | "broken" = "auth";
  let firstAt = 0;
  let syncedAt = 0;
  let closed = false;

  const since = (at: number) => at && now() - at;

  const connection = {
    token: undefined as Token,
    connected: false,
    synced: false,
    isStale: () => watchdog.silence() > 1.5 * heartbeat,
    close() {
      closed = true;
      timers.clear(name);
      stop();
    },
    end({ why, reason = why, floor = 0 }: Refusal) {
      if (closed) return;
      connection.close();
      on.ended(connection, { why, reason, floor, heartbeat, lived: since(firstAt), synced: since(syncedAt) });
    },
  };

  const watchdog = createWatchdog(timers, name, now, () => connection.end({ why }));

  /** Do as the server says in its last event. */
  const part = ({ reason, resume, retry_ms, transport }: Data) =>
    connection.end({
      why:
        transport === "poll"
          ? "sent_to_poll"
          : reason === "token_expired"
            ? "unauthorized"
            : resume === false
              ? "over"
              : "goodbye",
      reason: String(reason),
      floor: bounded(retry_ms, 0, 0, MOST_FLOOR_MS),
    });

  watchdog.expect(TOKEN_MS);
  const stop = open({
    asked(token) {
      connection.token = token;
      why = "mute";
      watchdog.expect(FIRST_EVENT_MS);
    },
    heard() {
      // Before the first event, bytes are no sign of life: something may let comments through, and hold the rest back.
      if (firstAt) watchdog.expect(patience(heartbeat));
    },
    event(event) {
      const { name } = event;
      const data = knowledge.take(teller, event);
      why = "broken";
      firstAt ||= now();
      if (data && name === "connected") {
        connection.connected = true;
        heartbeat = bounded(data["heartbeat_ms"], HEARTBEAT_MS, 100, 300_000);
      } else if (data && name === "synced") {
        connection.synced = true;
        syncedAt ||= now();
      }
      watchdog.expect(patience(heartbeat));
      if (data && name === "goodbye") part(data);
      else if (data && name === "error")
        connection.end({ why: data["retryable"] === false ? "sent_to_poll" : "broken", reason: String(data["code"]) });
      else on.told(connection, event, data);
    },
    ended: (refusal) => connection.end(refusal.why === "broken" ? { why } : refusal),
  });
  return connection;
}
