/** A session followed: its requests for a page to show, and the promise that they stay up to date. */

import { createAuth } from "./auth.js";
import { createSend } from "./exchange.js";
import { fetchStream } from "./fetch-stream.js";
import { createFollower, type Follower } from "./follower.js";
import { createKnowledge } from "./knowledge.js";
import type { RequestStream, RequestStreamOptions } from "./options.js";
import type { RequestState } from "./protocol.js";
import { createStore } from "./store.js";

const MOBILE_SUSPENDS_AFTER_MS = 60_000;
const NOTHING: readonly RequestState[] = [];

/** Follow the requests of a session, from now on until `stop`. */
export function createRequestStream({
  sessionId,
  baseUrl = "",
  auth: given = {},
  transport = "auto",
  rollout,
  open = fetchStream,
  initial: { requests, cursor } = { requests: NOTHING },
  environment = globalThis,
  suspendWhenHidden = /Mobi/.test(environment.navigator?.userAgent ?? "") ? MOBILE_SUSPENDS_AFTER_MS : 0,
  onUpdate,
  onStatus,
  onEvent,
}: RequestStreamOptions): RequestStream {
  const auth = "token" in given ? given : createAuth(given, environment.Date.now);
  const send = createSend(environment, auth);
  const store = createStore(requests);
  const knowledge = createKnowledge(store, cursor);
  const session = encodeURIComponent(sessionId);
  const listeners = new Set<() => void>();
  let snapshot: readonly RequestState[] | undefined;
  let said = "";

  /** Tell what has changed, in order. */
  const told = () => {
    const { status, reason } = follower;
    const changes = store.changes();
    const before = said;
    said = `${status} ${reason}`;
    if (changes.length) snapshot = undefined;
    for (const change of changes) safely(onUpdate, change.row, change);
    if (said !== before) safely(onStatus, status, reason);
    if (changes.length || said !== before) for (const listener of [...listeners]) safely(listener);
  };

  const follower = createFollower({
    environment,
    auth,
    send,
    open,
    streamUrl: `${baseUrl}/api/sse/${session}`,
    pollUrl: `${baseUrl}/api/session/${session}/requests`,
    knowledge,
    suspendWhenHidden,
    heard: (event) => safely(onEvent, event),
    told,
  });

  const start = async () => {
    const wanted = { streams: transport !== "poll", polls: transport !== "sse" };
    // In any case later: whoever asked for the stream has it in hand before anything is told.
    const choice = await (transport === "auto" ? rollout?.(send, baseUrl, follower.signal, environment) : undefined);
    if (!follower.signal.aborted) follower.start(choice ?? wanted);
  };
  void start();

  return Object.assign(follower, {
    counts: store.counts,
    getSnapshot: () =>
      (snapshot ??= Object.freeze([...store.rows.values()].sort((a, b) => a.sequence_number - b.sequence_number))),
    getServerSnapshot: () => requests,
    getPosition() {
      const { epoch, cursor } = knowledge;
      return cursor && epoch && epoch === store.epoch ? { epoch, cursor } : undefined;
    },
    get: (requestId: string) => store.rows.get(requestId),
    subscribe(listener: () => void) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    waitForDone: (requestId: string, { signal }: { readonly signal?: AbortSignal } = {}) =>
      new Promise<RequestState>((resolve, reject) => {
        let known = false;
        const look = () => {
          const row = store.rows.get(requestId);
          const isStopped = follower.status === "stopped";
          if (row?.terminal) resolve(row);
          else if (signal?.aborted) reject(signal.reason);
          else if (isStopped || (known && !row)) reject(Error(isStopped ? follower.reason : "removed"));
          else {
            known = !!row;
            return;
          }
          listeners.delete(look);
          signal?.removeEventListener("abort", look);
        };
        listeners.add(look);
        signal?.addEventListener("abort", look);
        look();
      }),
  } satisfies Omit<RequestStream, keyof Follower>);
}

/** Call somebody else's function: what it throws is reported, and stops nothing here. */
export function safely<Arguments extends unknown[]>(
  run: ((...args: Arguments) => unknown) | undefined,
  ...args: Arguments
): void {
  try {
    run?.(...args);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}
