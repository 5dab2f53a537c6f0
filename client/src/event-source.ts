/** A stream over the browser's own `EventSource`: for where `fetch` cannot be used, or is wrapped by something that buffers. */

import type { Refusal } from "./exchange.js";
import type { OpenStream } from "./fetch-stream.js";

/** `EventSource` tells only of events that it was asked for. */
const NAMES = [
  "connected",
  "snapshot",
  "request_update",
  "request_removed",
  "synced",
  "heartbeat",
  "resync",
  "degraded",
  "token_expiring",
  "goodbye",
  "progress",
  "error",
];

const CLOSED = 2;

export interface EventSourceOptions {
  /** Get a ticket before every connection, since a token cannot be sent; else cookies are. */
  readonly ticket?: boolean;
  readonly EventSource?: typeof EventSource;
}

/**
 * Open streams with `EventSource`. It sees no status and no comments: what a refusal means is found out by a poll, and
 * that the stream lives by its heartbeats. It never reconnects by itself, for browsers differ in when they give up.
 */
export function eventSource({
  ticket,
  EventSource: Source = globalThis.EventSource,
}: EventSourceOptions = {}): OpenStream {
  return (send, url, on) => {
    const abort = new AbortController();
    const { signal } = abort;
    let source: EventSource | undefined;

    const close = () => {
      abort.abort();
      source?.close();
    };
    const end = (refusal: Refusal) => {
      if (signal.aborted) return;
      close();
      on.ended(refusal);
    };

    const open = async (): Promise<void> => {
      // Whoever asked for the stream has it in hand before anything is told.
      await undefined;
      if (!Source) return end({ why: "no_stream" });
      let query = "";
      if (ticket) {
        const [path] = url.split("?");
        const response = await send(`${path}/ticket`, {}, signal, on.asked, undefined, "POST");
        if ("why" in response) return end(response);
        const body = (await response.json()) as { ticket: string };
        query = `&ticket=${encodeURIComponent(body.ticket)}`;
      } else on.asked(undefined);
      if (signal.aborted) return;
      source = new Source(url + query, { withCredentials: !ticket });
      let isOpen = false;
      source.onopen = () => {
        isOpen = true;
      };
      for (const name of NAMES)
        source.addEventListener(name, (event: Event) => {
          const { data, lastEventId } = event as MessageEvent;
          // The browser's own `error` carries nothing.
          if (typeof data === "string") {
            on.heard();
            on.event({ name, data, id: lastEventId });
          } else if (name === "error")
            end({ why: isOpen ? "broken" : source?.readyState === CLOSED ? "failed" : "unreachable" });
        });
    };
    open().catch(() => end({ why: "unreachable" }));
    return close;
  };
}
