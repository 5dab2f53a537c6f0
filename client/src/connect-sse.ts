/** A stream with the members of an `EventSource`, for pages that were written for one. */

import { createRequestStream } from "./client.js";
import type { RequestStream, RequestStreamOptions } from "./options.js";
import type { RequestState } from "./protocol.js";

const CONNECTING = 0;
const OPEN = 1;
const CLOSED = 2;

type Listener<E extends Event> = ((event: E) => unknown) | null;

/**
 * What an `EventSource` is to its users, over a stream that reconnects, falls back to polling, and tells every change
 * once. `request_update` and `request_removed` are told whoever told them, a poll too; other events as they come.
 */
export class RequestEventSource extends EventTarget {
  static readonly CONNECTING: number = CONNECTING;
  static readonly OPEN: number = OPEN;
  static readonly CLOSED: number = CLOSED;

  readonly CONNECTING: number = CONNECTING;
  readonly OPEN: number = OPEN;
  readonly CLOSED: number = CLOSED;
  readonly url: string;
  readonly withCredentials: boolean = true;
  readyState: number = CONNECTING;
  onopen: Listener<Event> = null;
  onmessage: Listener<MessageEvent<string>> = null;
  onerror: Listener<Event> = null;
  readonly #live: RequestStream;

  constructor(
    sessionId: string,
    onUpdate: (update: RequestState) => void,
    onError: ((error: Error) => void) | undefined,
    options: Omit<RequestStreamOptions, "sessionId">,
  ) {
    super();
    this.url = `${options.baseUrl ?? ""}/api/sse/${encodeURIComponent(sessionId)}`;
    this.#live = createRequestStream({
      auth: { cookies: true },
      ...options,
      sessionId,
      onUpdate: (row, change) => {
        options.onUpdate?.(row, change);
        // What was before the page came is not told as news: pages act on news.
        if (change.first) return;
        if (!change.removed) onUpdate(row);
        this.#tell(change.removed ? "request_removed" : "request_update", JSON.stringify(row));
      },
      onEvent: (event) => {
        options.onEvent?.(event);
        const { name, data, id } = event;
        if (name !== "request_update" && name !== "request_removed") this.#tell(name, data, id);
      },
      onStatus: (status, reason) => {
        options.onStatus?.(status, reason);
        if (this.readyState === CLOSED) return;
        const before = this.readyState;
        this.readyState = status === "stopped" ? CLOSED : status === "live" || status === "polling" ? OPEN : CONNECTING;
        if (before === this.readyState) return;
        this.dispatchEvent(new Event(this.readyState === OPEN ? "open" : "error"));
        if (status === "stopped") onError?.(new Error(`the stream has ended: ${reason}`));
      },
    });
    for (const type of ["open", "message", "error"] as const)
      this.addEventListener(type, (event) => (this[`on${type}`] as Listener<Event>)?.(event));
  }

  /** Let go of everything, for good; nothing is told afterwards. */
  close(): void {
    this.readyState = CLOSED;
    this.#live.stop();
  }

  #tell(type: string, data: string, lastEventId = ""): void {
    this.dispatchEvent(new MessageEvent(type, { data, lastEventId }));
  }
}

/**
 * Follow a session: `onUpdate` is called once for every change from now on, by stream and by poll alike. `onError` is
 * called when it is over for good; until then the stream cares for itself.
 */
export function connectSSE(
  sessionId: string,
  onUpdate: (update: RequestState) => void,
  onError?: (error: Error) => void,
  options: Omit<RequestStreamOptions, "sessionId"> = {},
): RequestEventSource {
  return new RequestEventSource(sessionId, onUpdate, onError, options);
}
