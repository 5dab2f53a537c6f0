/** What goes over the wire, as far as the client reads it; fields and events that it does not know are ignored. */

/** The state of one request. Within an epoch, the larger `version` is the newer state. */
export interface RequestState {
  readonly request_id: string;
  readonly session_id: string;
  /** An open set: expect states you do not know. */
  readonly status: string;
  /** Epoch seconds. */
  readonly updated_at: number;
  readonly has_response: boolean;
  readonly has_error: boolean;
  readonly sequence_number: number;
  readonly version: number;
  /** Nothing more will come, short of a retry. */
  readonly terminal: boolean;
}

/** One request with its response or error: the answer of `GET /api/request/{session_id}/{sequence_number}`. */
export interface RequestDetail extends RequestState {
  readonly request: string;
  readonly handler: string;
  readonly response: string | null;
  readonly error: string | null;
  readonly rating: number | null;
  readonly review: string | null;
  readonly created_at: number;
  readonly query_ids: readonly string[];
}

/** The key of a request that is gone, and the version that it has reached. */
export type Removed = Pick<RequestState, "request_id" | "version">;

/** Who told something. */
export type Transport = "sse" | "poll";

/** A request became what `row` says, or went (`removed`). */
export interface Change {
  readonly row: RequestState;
  readonly removed: boolean;
  readonly transport: Transport;
  /** It is part of what was when the stream began, not of what has happened since. */
  readonly first: boolean;
}

/** What came that was no news: states that came again, or too late, and what made no sense; and polls that were answered. */
export interface Counts {
  duplicates: number;
  stale: number;
  skipped: number;
  polls: number;
}

/** One part of all that there is. */
export interface Snapshot {
  readonly epoch: string;
  readonly requests: readonly RequestState[];
  readonly part: number;
  readonly more: boolean;
}

/** The answer to a poll for a whole session. */
export interface SessionRows {
  readonly epoch: string;
  readonly cursor: string;
  readonly mode: "full" | "delta";
  readonly requests: readonly RequestState[];
  readonly removed: readonly Removed[];
  readonly poll: PollHint;
}

/** How often to ask, and how long a poll may be held. */
export interface PollHint {
  readonly interval_ms: number;
  readonly max_wait_s: number;
}

/** Return `value`, which nobody has checked, as a number from `low` to `high`; `otherwise`, if it is none. */
export function bounded(value: unknown, otherwise: number, low: number, high: number): number {
  return typeof value === "number" ? Math.min(Math.max(value, low), high) : otherwise;
}
