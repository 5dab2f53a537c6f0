/** Polling: the same rows and the same cursor as the stream, asked for again and again. */

import type { Token } from "./auth.js";
import { createBackoff } from "./backoff.js";
import type { Environment } from "./environment.js";
import type { Refusal, Send } from "./exchange.js";
import type { Knowledge } from "./knowledge.js";
import { CROWDED, type Policy } from "./policy.js";
import { bounded, type SessionRows } from "./protocol.js";
import type { Timers } from "./timers.js";

/** What a poll found: no body means that nothing has changed. */
export interface Answer<Body> {
  readonly body?: Body;
  readonly etag: string;
}

const LEAST_MS = 100;
const INTERVAL_MS = 1_000;
const MOST_MS = 60_000;
const MOST_WAIT_S = 60;
/** How much longer than the server was asked to wait an answer may take. */
const MARGIN_MS = 15_000;

/** Ask once; `etag` names what is known. */
export async function ask<Body>(
  send: Send,
  url: string,
  etag: string,
  signal: AbortSignal,
  asked?: (token: Token) => void,
): Promise<Answer<Body> | Refusal> {
  // An own If-None-Match has equal polls go side by side; the browser's cache would have them wait for each other.
  const response = await send(url, etag ? { "If-None-Match": etag } : {}, signal, asked);
  if ("why" in response) return response;
  if (response.status === 304) return { etag };
  try {
    return { body: await response.json(), etag: response.headers.get("etag") ?? "" };
  } catch {
    return { why: "unreachable" };
  }
}

export interface PollingListeners {
  /** Whether a stream is open, which then speaks for the epoch. */
  isBesideStream(): boolean;
  answered(): void;
  /** Take in why there was no answer; say whether to ask again at once. */
  failed(refusal: Refusal, token: Token): boolean;
}

export interface Polling {
  isRunning(): boolean;
  /** Poll from now on, or after `delay` ms; it does not wait for what it would have waited for. */
  start(delay: number): void;
  stop(): void;
}

export function createPolling(
  {
    knowledge,
    timers,
    policy,
    environment,
  }: { knowledge: Knowledge; timers: Timers; policy: Policy; environment: Environment },
  send: Send,
  url: string,
  on: PollingListeners,
): Polling {
  const { now } = environment.Date;
  const { random } = environment.Math;
  const backoff = createBackoff(now, random);
  let abort: AbortController | undefined;
  let running = false;
  let works = false;
  let interval = INTERVAL_MS;
  let mostWait = 0;

  const next = (delay: number) => {
    abort = undefined;
    timers.clear("deadline");
    // What was told of the answer may have ended the polling.
    if (running) timers.set("poll", delay, poll);
  };

  const fail = (refusal: Refusal, token?: Token) => {
    const { reason, floor } = refusal;
    works = false;
    if (reason === CROWDED) policy.crowd(floor ?? 0);
    next(on.failed(refusal, token) ? 0 : backoff.next(floor));
  };

  /** Keep an answer, and return how long the next one is to follow this one, in ms. */
  const take = ({ body, etag }: Answer<SessionRows>, teller: Parameters<Knowledge["answer"]>[0], held: boolean) => {
    const isNews = body && knowledge.answer(teller, body, etag, on.isBesideStream());
    if (isNews) {
      interval = bounded(body.poll?.interval_ms, INTERVAL_MS, LEAST_MS, MOST_MS);
      mostWait = bounded(body.poll?.max_wait_s, 0, 0, MOST_WAIT_S);
    }
    works = true;
    backoff.worked();
    on.answered();
    // Held by the server as a rule; where something between answers at once, do not spin.
    if (held || (mostWait && policy.holds)) return isNews ? LEAST_MS : Math.min(interval, INTERVAL_MS);
    return Math.max(interval, policy.spacing);
  };

  const poll = async () => {
    const mine = new AbortController();
    abort = mine;
    const startedAt = now();
    const { cursor, etag, store } = knowledge;
    const teller = store.begin("poll");
    const wait = works && etag && policy.holds ? mostWait : 0;
    timers.set("deadline", wait * 1_000 + MARGIN_MS, () => {
      mine.abort();
      fail({ why: "unreachable" });
    });
    const query = `?wait=${wait}${cursor && `&cursor=${encodeURIComponent(cursor)}`}`;
    let token: Token;
    const answer = await ask<SessionRows>(send, url + query, etag, mine.signal, (sent) => {
      token = sent;
    });
    if (abort !== mine) return;
    if ("why" in answer) return fail(answer, token);
    try {
      const slower = environment.document?.hidden ? 4 : 1;
      const pause = take(answer, teller, wait > 0) * slower * (0.8 + 0.4 * random());
      next(Math.max(0, pause - (now() - startedAt)));
    } catch {
      fail({ why: "not_understood" });
    }
  };

  return {
    isRunning: () => running,
    start(delay) {
      if (abort) return;
      running = true;
      next(delay);
    },
    stop() {
      running = works = false;
      abort?.abort();
      next(0);
      timers.clear("poll");
    },
  };
}
