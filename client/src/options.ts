/** What a stream of requests is told when it is created, and what it offers then. */

import type { Auth, AuthOptions } from "./auth.js";
import type { Environment } from "./environment.js";
import type { OpenStream } from "./fetch-stream.js";
import type { Status } from "./machine.js";
import type { ServerEvent } from "./parser.js";
import type { Change, Counts, RequestState } from "./protocol.js";
import type { Rollout } from "./rollout.js";

export interface RequestStreamOptions {
  readonly sessionId: string;
  /** Where the service is; empty: where the page came from. */
  readonly baseUrl?: string;
  /** Streams that share a result of `createAuth` fetch a token once for all. Default: cookies of the same origin. */
  readonly auth?: Auth | AuthOptions;
  /** `auto`: a stream, and polling where streams do not get through. */
  readonly transport?: "auto" | "sse" | "poll";
  /** How `auto` chooses whom to give a stream: `byServer`, or `byShare`. Default: everybody. */
  readonly rollout?: Rollout;
  /** How streams are opened: `fetchStream`, the default, or `eventSource`. */
  readonly open?: OpenStream;
  /** What is known already, in a page that was rendered on the server. */
  readonly initial?: { readonly requests: readonly RequestState[]; readonly cursor?: string };
  /** How long the page may be hidden in ms before it lets go of its connections. Default: a minute on phones, else 0: for ever. */
  readonly suspendWhenHidden?: number;
  readonly environment?: Environment;
  /** Called once for every change, in order; of a request that was removed, with what it was. */
  readonly onUpdate?: (row: RequestState, change: Change) => void;
  readonly onStatus?: (status: Status, reason: string) => void;
  /** Called with every event of a stream after it was taken in, whether it was news or not. */
  readonly onEvent?: (event: ServerEvent) => void;
}

export interface RequestStream {
  readonly status: Status;
  /** Why it is not live; empty if it is. */
  readonly reason: string;
  readonly counts: Readonly<Counts>;
  /** The requests in the order in which they were made: the same array until one of them changes. */
  getSnapshot(): readonly RequestState[];
  /** What was known when it was created. */
  getServerSnapshot(): readonly RequestState[];
  /** Up to where the snapshot holds everything that the service has; undefined while that cannot be said. */
  getPosition(): { readonly epoch: string; readonly cursor: string } | undefined;
  get(requestId: string): RequestState | undefined;
  /** Have `listener` called after changes of requests and of the status; the result ends that. */
  subscribe(listener: () => void): () => void;
  /**
   * Wait, however long it takes, until nothing more can come of a request. Rejects with the reason of `signal`, or with
   * an Error when the request is removed or the stream stops.
   */
  waitForDone(requestId: string, options?: { readonly signal?: AbortSignal }): Promise<RequestState>;
  /** Try at once, whatever was waited for. */
  reconnect(): void;
  /** Let go of everything, for good. */
  stop(): void;
}
