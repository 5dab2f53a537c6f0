/** A stream over `fetch`: it sees every byte, status and header, and carries a token. */

import type { Token } from "./auth.js";
import type { Refusal, Send } from "./exchange.js";
import { createParser, type ServerEvent } from "./parser.js";

/** Who is told what comes of a stream. Nothing is told after `ended`, nor once it is closed. */
export interface StreamListeners {
  /** The request goes its way, with this token. */
  asked(token: Token): void;
  /** A byte came, or an event. */
  heard(): void;
  event(event: ServerEvent): void;
  ended(refusal: Refusal): void;
}

/** Opens a stream; the result closes it. */
export type OpenStream = (send: Send, url: string, on: StreamListeners) => () => void;

export const fetchStream: OpenStream = (send, url, on) => {
  const abort = new AbortController();
  const { signal } = abort;
  const feed = createParser({ event: (event) => signal.aborted || on.event(event) });

  const read = async (): Promise<Refusal> => {
    const response = await send(url, { Accept: "text/event-stream" }, signal, on.asked);
    if ("why" in response) return response;
    const { body, headers } = response;
    if (!body || !/^text\/event-stream\b/i.test(headers.get("content-type") ?? "")) return { why: "no_stream" };
    const reader = body.getReader();
    try {
      for (;;) {
        const { value } = await reader.read();
        if (!value || signal.aborted) return { why: "broken" };
        on.heard();
        feed(value);
      }
    } catch (error) {
      return { why: error instanceof RangeError ? "not_understood" : "broken" };
    }
  };

  void read().then((refusal) => {
    if (!signal.aborted) on.ended(refusal);
    abort.abort();
  });
  return () => abort.abort();
};
