"use client";
/** Hooks over streams that live outside of React: one for a session, however many components show it. */

import {
  createContext,
  createElement,
  type FunctionComponent,
  type ReactNode,
  useCallback,
  useContext,
  useEffect,
  useSyncExternalStore,
} from "react";
import { createRequestStream, safely } from "./client.js";
import type { Status } from "./machine.js";
import type { RequestStream, RequestStreamOptions } from "./options.js";
import type { Change, RequestState } from "./protocol.js";

export interface UseRequestsOptions extends RequestStreamOptions {
  /** Who is logged in. What one user was shown is never shown to another. */
  readonly user?: string;
  /** What follows the session: `createRequestStream`, the default, or `createSharedStream`. */
  readonly create?: (options: RequestStreamOptions & { readonly user: string }) => RequestStream;
}

type OnUpdate = (row: RequestState, change: Change) => void;

interface Entry {
  readonly live: RequestStream;
  readonly updates: Set<OnUpdate>;
  users: number;
  leaving: unknown;
}

/** How long a stream outlives the last component that shows it: the next one may come at once. */
const GRACE_MS = 250;
const NOTHING: readonly RequestState[] = [];

/** The streams that are in use, by service, user and session. */
const entries = new Map<string, Entry>();
const Options = createContext<UseRequestsOptions | undefined>(undefined);

const keyOf = ({ baseUrl, user, sessionId }: UseRequestsOptions) => JSON.stringify([baseUrl, user, sessionId]);

/** Use the stream, which is created unless somebody uses it already; the result ends that. */
function enter(key: string, options: UseRequestsOptions): () => void {
  let entry = entries.get(key);
  if (!entry) {
    const { create = createRequestStream, user = "" } = options;
    const updates = new Set<OnUpdate>();
    const onUpdate: OnUpdate = (row, change) => {
      for (const update of [...updates]) safely(update, row, change);
    };
    entry = { live: create({ ...options, user, onUpdate }), updates, users: 0, leaving: undefined };
    entries.set(key, entry);
  }
  const mine = entry;
  const { setTimeout, clearTimeout } = options.environment ?? globalThis;
  clearTimeout(mine.leaving as number);
  mine.users++;
  return () => {
    if (--mine.users) return;
    mine.leaving = setTimeout(() => {
      entries.delete(key);
      mine.live.stop();
    }, GRACE_MS);
  };
}

/** Return what `select` sees of a stream, and `initially` what there is before it and on a server. */
function useStream<Value>(
  given: UseRequestsOptions | undefined,
  select: (live: RequestStream) => Value,
  initially: (requests: readonly RequestState[]) => Value,
): Value {
  const around = useContext(Options);
  const options = given ?? around;
  if (!options) throw new Error("useRequests needs options, or a RequestsProvider around it");
  const key = keyOf(options);
  // biome-ignore lint/correctness/useExhaustiveDependencies: the options of whoever comes first are those of the stream.
  const subscribe = useCallback(
    (listener: () => void) => {
      const leave = enter(key, options);
      const unsubscribe = entries.get(key)?.live.subscribe(listener);
      return () => {
        unsubscribe?.();
        leave();
      };
    },
    [key],
  );
  const before = () => initially(options.initial?.requests ?? NOTHING);
  const now = () => {
    const entry = entries.get(key);
    return entry ? select(entry.live) : before();
  };
  return useSyncExternalStore(subscribe, now, before);
}

/** Call `onUpdate` once for every change, in order, whatever React makes of it. */
function useUpdates(options: UseRequestsOptions | undefined): void {
  const { onUpdate } = options ?? {};
  const key = options && keyOf(options);
  useEffect(() => {
    const updates = entries.get(key ?? "")?.updates;
    if (!onUpdate || !updates) return;
    // Of its own, so that two components may have the same function called.
    const update: OnUpdate = (row, change) => onUpdate(row, change);
    updates.add(update);
    return () => void updates.delete(update);
  }, [key, onUpdate]);
}

/**
 * Follow the requests of a session, in the order in which they were made.
 *
 * Without options, those of the `RequestsProvider` around it. Components with the same service, user and session share
 * a stream, with the options of the one that came first; `onUpdate` is each one's own.
 */
export function useRequests(options?: UseRequestsOptions): readonly RequestState[] {
  const requests = useStream(
    options,
    (live) => live.getSnapshot(),
    (requests) => requests,
  );
  useUpdates(options);
  return requests;
}

/** Follow one request; undefined while it is not known. */
export function useRequest(requestId: string, options?: UseRequestsOptions): RequestState | undefined {
  return useStream(
    options,
    (live) => live.get(requestId),
    (requests) => requests.find((row) => row.request_id === requestId),
  );
}

/** What the stream is doing, and why it is not live. */
export function useStreamStatus(options?: UseRequestsOptions): { readonly status: Status; readonly reason: string } {
  const status = useStream<Status>(
    options,
    (live) => live.status,
    () => "idle",
  );
  const reason = useStream(
    options,
    (live) => live.reason,
    () => "",
  );
  return { status, reason };
}

/** Follow a session for all components inside, which need no options then. */
export const RequestsProvider: FunctionComponent<UseRequestsOptions & { readonly children?: ReactNode }> = ({
  children,
  ...options
}) => {
  useStream(
    options,
    () => 0,
    () => 0,
  );
  useUpdates(options);
  return createElement(Options.Provider, { value: options }, children);
};
