/** One request with its response: asked for until it is there, or followed by the session's stream. */

import { type Auth, type AuthOptions, createAuth } from "./auth.js";
import { createBackoff } from "./backoff.js";
import { createRequestStream } from "./client.js";
import type { Environment } from "./environment.js";
import { createSend, type Refusal } from "./exchange.js";
import type { RequestStreamOptions } from "./options.js";
import { ask } from "./poll.js";
import type { RequestDetail, RequestState } from "./protocol.js";
import { createTimers } from "./timers.js";

export interface ResponseOptions {
  readonly sessionId: string;
  /** The `sequence_number` of the request. */
  readonly seqNum: number;
  readonly baseUrl?: string;
  readonly auth?: Auth | AuthOptions;
  /** Ends it: `waitForDone` rejects with its reason. */
  readonly signal?: AbortSignal;
  readonly environment?: Environment;
}

export interface ResponseWatch {
  /** Call `listener` with every status from now on, and with the one that is known; the result ends that. */
  onStatus(listener: (status: string) => void): () => void;
  /** Return the request with its response or error once nothing more can come, however long it takes. */
  waitForDone(): Promise<RequestDetail>;
}

const INTERVAL_MS = 1_000;
const HOLD_S = 20;
const MARGIN_MS = 15_000;
/** A token that is refused again is the last. */
const MOST_REFUSED = 2;

/** Poll one request until nothing more can come. There is no limit to how often: end it with `signal`. */
export function pollForResponse(options: ResponseOptions): ResponseWatch {
  const { environment = globalThis } = options;
  const tell = createTeller();
  const done = poll({ ...options, environment }, tell);
  return watchOf(tell, done);
}

/** The same by the session's stream, which polls where it cannot stream: the response is fetched when it is there. */
export function followResponse(
  options: ResponseOptions & Pick<RequestStreamOptions, "transport" | "rollout" | "open">,
): ResponseWatch {
  const { seqNum, signal, environment = globalThis } = options;
  const auth = authOf(options, environment);
  const tell = createTeller();
  const done = new Promise<void>((resolve, reject) => {
    const live = createRequestStream({
      ...options,
      auth,
      onUpdate(row: RequestState, { removed }) {
        if (row.sequence_number !== seqNum) return;
        if (removed) return end(() => reject(new Error("removed")));
        tell(row.status);
        if (row.terminal) end(resolve);
      },
      onStatus: (status, reason) => {
        if (status === "stopped") end(() => reject(new Error(reason)));
      },
    });
    const leave = () => end(() => reject(signal?.reason));
    const end = (how: () => void) => {
      signal?.removeEventListener("abort", leave);
      how();
      live.stop();
    };
    if (signal?.aborted) leave();
    signal?.addEventListener("abort", leave);
  }).then(() => poll({ ...options, auth, environment }, tell));
  return watchOf(tell, done);
}

interface Teller {
  (status: string): void;
  listen(listener: (status: string) => void): () => void;
}

/** Tells statuses that are another than the last. */
function createTeller(): Teller {
  const listeners = new Set<(status: string) => void>();
  let last: string | undefined;
  const tell = (status: string) => {
    if (status === last) return;
    last = status;
    for (const listener of [...listeners]) listener(status);
  };
  const listen = (listener: (status: string) => void) => {
    listeners.add(listener);
    if (last !== undefined) listener(last);
    return () => listeners.delete(listener);
  };
  return Object.assign(tell, { listen });
}

function watchOf({ listen }: Teller, done: Promise<RequestDetail>): ResponseWatch {
  // Whoever only listens need not hear that it failed.
  done.catch(() => {});
  return { onStatus: listen, waitForDone: () => done };
}

function authOf({ auth = { cookies: true } }: ResponseOptions, { Date }: Environment): Auth {
  return "token" in auth ? auth : createAuth(auth, Date.now);
}

async function poll(options: ResponseOptions & { environment: Environment }, tell: Teller): Promise<RequestDetail> {
  const { sessionId, seqNum, baseUrl = "", signal, environment } = options;
  const timers = createTimers(environment);
  const auth = authOf(options, environment);
  const send = createSend(environment, auth);
  const backoff = createBackoff(environment.Date.now, environment.Math.random);
  const url = `${baseUrl}/api/request/${encodeURIComponent(sessionId)}/${seqNum}`;
  let abort = new AbortController();
  const leave = () => {
    abort.abort();
    timers.clearAll();
    wake();
  };
  let wake = () => {};
  const pause = (ms: number) =>
    new Promise<void>((resolve) => {
      wake = resolve;
      timers.set("pause", ms, resolve);
    });
  let etag = "";
  let hold = HOLD_S;
  let refused = 0;
  signal?.addEventListener("abort", leave);
  try {
    for (;;) {
      signal?.throwIfAborted();
      abort = new AbortController();
      const startedAt = environment.Date.now();
      timers.set("deadline", hold * 1_000 + MARGIN_MS, () => abort.abort());
      const answer = await ask<RequestDetail>(send, hold ? `${url}?wait=${hold}` : url, etag, abort.signal);
      timers.clear("deadline");
      signal?.throwIfAborted();
      if ("why" in answer) {
        refused = answer.why === "unauthorized" ? refused + 1 : 0;
        if (isOver(answer, auth, refused)) throw new Error(answer.reason ?? answer.why);
        // Not every service holds polls for so long, or at all.
        if (answer.reason === "http_400" || answer.reason === "http_429") hold = 0;
        await pause(refused ? 0 : backoff.next(answer.floor));
        continue;
      }
      refused = 0;
      backoff.worked();
      etag = answer.etag;
      const row = answer.body;
      if (row) tell(row.status);
      if (row?.terminal) return row;
      const isHeld = environment.Date.now() - startedAt >= INTERVAL_MS;
      await pause(isHeld || (row && hold) ? 0 : INTERVAL_MS);
    }
  } finally {
    signal?.removeEventListener("abort", leave);
    leave();
  }
}

function isOver({ why }: Refusal, auth: Auth, refused: number): boolean {
  if (why === "unauthorized" && auth.renewable && refused < MOST_REFUSED) auth.refuse();
  else if (why === "unauthorized" || why === "over") return true;
  return false;
}
