/** What a follower is told when it is created, and what it offers then. */

import type { Auth } from "./auth.js";
import type { Environment } from "./environment.js";
import type { Send } from "./exchange.js";
import type { OpenStream } from "./fetch-stream.js";
import type { Knowledge } from "./knowledge.js";
import type { Status } from "./machine.js";
import type { ServerEvent } from "./parser.js";

/** What is wanted: streams, and polls where they do not get through. */
export interface Choice {
  readonly streams: boolean;
  readonly polls: boolean;
}

export interface FollowerOptions {
  readonly environment: Environment;
  readonly auth: Auth;
  readonly send: Send;
  readonly open: OpenStream;
  readonly streamUrl: string;
  readonly pollUrl: string;
  readonly knowledge: Knowledge;
  /** How long the page may be hidden in ms before it lets go of its connections; 0: for ever. */
  readonly suspendWhenHidden: number;
  /** Called with every event that was taken in. */
  heard(event: ServerEvent): void;
  /** Called whenever the status may be another, or there may be changes. */
  told(): void;
}

export interface Follower {
  status: Status;
  /** Why it is not live; empty if it is. */
  reason: string;
  /** Aborted when it is over. */
  readonly signal: AbortSignal;
  start(choice: Choice): void;
  reconnect(): void;
  stop(): void;
}
