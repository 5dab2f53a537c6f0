/** Who gets streams while they are rolled out: the same answer for the same user, here and in Python. */

import type { Environment } from "./environment.js";
import type { Send } from "./exchange.js";
import type { Choice } from "./follower.js";
import { ask } from "./poll.js";

/** Chooses for one stream, with what it has to ask with; `baseUrl` is where the service is. It must not throw. */
export type Rollout = (
  send: Send,
  baseUrl: string,
  signal: AbortSignal,
  timers?: Pick<Environment, "setTimeout" | "clearTimeout">,
) => Promise<Choice>;

/** What `GET /api/config` answers; null leaves the choice to the client. */
interface Config {
  readonly transport: "sse" | "poll";
  readonly fallback: boolean | null;
}

const BUCKETS = 10_000;
/** A service that says nothing for so long is not waited for. */
const CONFIG_MS = 8_000;

/**
 * Return the user's bucket, 0 to 9,999: FNV-1a (32 bits) of `salt:user` in UTF-8, mixed by murmur3's `fmix32`.
 *
 * FNV alone leaves neighbouring ids in neighbouring buckets; the mixing spreads them. A new salt reshuffles everybody.
 */
export function bucketOf(user: string, salt: string): number {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(`${salt}:${user}`)) hash = Math.imul(hash ^ byte, 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return ((hash ^ (hash >>> 16)) >>> 0) % BUCKETS;
}

/** Whether a user is among the first `percent` of all; raising the percentage never takes anybody out. */
export function isChosen(user: string, salt: string, percent: number): boolean {
  return bucketOf(user, salt) < percent * (BUCKETS / 100);
}

/** Streams for a share of the users, the same ones every time. */
export function byShare({ percent, salt, user }: { percent: number; salt: string; user: string }): Rollout {
  return async () => ({ streams: isChosen(user, salt, percent), polls: true });
}

/** As the service says now; a stream, and polls where it does not get through, if it does not say. */
export const byServer: Rollout = async (send, baseUrl, signal, { setTimeout, clearTimeout } = globalThis) => {
  const abort = new AbortController();
  const leave = () => abort.abort();
  signal.addEventListener("abort", leave);
  const timer = setTimeout(leave, CONFIG_MS);
  const answer = await ask<Config>(send, `${baseUrl}/api/config`, "", abort.signal);
  clearTimeout(timer);
  const config: Partial<Config> = "why" in answer ? {} : (answer.body ?? {});
  return { streams: config.transport !== "poll", polls: config.fallback !== false };
};
