/** Stream or poll, and how long to wait: decided from how streams ended, with no socket of its own. */

import { createBackoff } from "./backoff.js";
import type { Refusal } from "./exchange.js";

/** How a stream can end, or fail to begin. */
export type Why =
  | "unreachable" // nobody answers there, which says nothing about whether streams would get through
  | "mute" // an answer, perhaps, but no event: something between holds the body back
  | "broken" // it was a stream, and ended without a goodbye
  | "no_stream" // answered, but by something that does not speak of streams
  | "busy" // not now, the server says, and when
  | "failed" // any other status: a proxy without a server behind it, as a rule
  | "goodbye"
  | "sent_to_poll"
  | "not_understood"
  | "unauthorized" // and there is something to be hoped for from another token
  | "auth" // no token could be got
  | "over"; // for good

/** The reason of a refusal because there are too many streams and held polls. */
export const CROWDED = "http_429";

/** How a stream ended. `lived` counts from its first event, `synced` from `synced`, all in ms; 0: never. */
export interface Ended extends Required<Refusal> {
  readonly lived: number;
  readonly synced: number;
  readonly heartbeat: number;
}

export interface Policy {
  /** Whether to stream or to poll, and whether polling may stand in for a stream. */
  streams: boolean;
  mayPoll: boolean;
  /** The heartbeat to ask for in ms; 0: the server's own. */
  heartbeat: number;
  /** Whether the server may be asked to hold a poll, and the least time between polls in ms. */
  holds: boolean;
  spacing: number;
  /** Take in how a stream ended; return how long to wait before anything else. `streams` says what then. */
  note(ended: Ended): number;
  /** There are too many streams and held polls. */
  crowd(floor: number): void;
  /** Return how long to poll before the next probe. */
  probeDelay(): number;
  /** Take in how a probe ended. */
  missed(why: Why): void;
  /** A stream got through. */
  synced(): void;
  /** The network or the viewer is back: what failed before says little now. */
  forgive(): void;
}

/** Asked for where something between cuts what is quiet for a while. */
const LIVELY_MS = 1_000;
/** Before the first probe, if the server itself said that it will pass. */
const SOON_MS = 5_000;
const PROBE_MS = [30_000, 60_000, 120_000, 300_000, 600_000];
const LONG_LIFE_MS = 10_000;
const MUTE_MOST = 2;
const SHORT_MOST = 3;
/** Where one of these ends a stream, another would end so, too. */
const HOPELESS: readonly Why[] = ["no_stream", "busy", "sent_to_poll"];

export function createPolicy(now: () => number, random: () => number): Policy {
  const backoff = createBackoff(now, random);
  let mute = 0;
  let short = 0;
  let misunderstood = 0;
  let probes = 0;
  let passes = false;

  const settle = () => {
    mute = short = misunderstood = 0;
  };

  const count = ({ why, lived, heartbeat }: Ended) => {
    if (why !== "unreachable") mute = why === "mute" ? mute + 1 : 0;
    if (why === "not_understood") misunderstood++;
    if (why === "goodbye" || why === "broken") short = why === "broken" && lived < 2 * heartbeat ? short + 1 : 0;
    if (short === SHORT_MOST && !policy.heartbeat && heartbeat > LIVELY_MS) {
      // Something may cut what is quiet for too long; if a livelier stream is cut as well, it is not that.
      policy.heartbeat = LIVELY_MS;
      short = 0;
    }
  };

  const policy: Policy = {
    streams: true,
    mayPoll: true,
    heartbeat: 0,
    holds: true,
    spacing: 0,
    note(ended) {
      const { why, reason, floor, lived, synced } = ended;
      const isLong = synced >= LONG_LIFE_MS;
      if (synced) backoff.worked(isLong);
      if (isLong) {
        settle();
        probes = 0;
      }
      if (why === "unauthorized") return 0;
      count(ended);
      const isHopeless = mute >= MUTE_MOST || Math.max(short, misunderstood) >= SHORT_MOST || HOPELESS.includes(why);
      if (isHopeless && policy.mayPoll) {
        policy.streams = false;
        passes = why === "busy";
        policy.holds = true;
        policy.spacing = passes ? floor : 0;
        if (reason === CROWDED) policy.crowd(floor);
      }
      const delay = backoff.next(floor);
      // Whatever cuts short lives, one try a second is enough.
      return short > 1 ? Math.max(delay, 1_000 - lived) : delay;
    },
    crowd(floor) {
      policy.holds = false;
      policy.spacing = floor;
    },
    probeDelay() {
      const steps = passes ? [SOON_MS, ...PROBE_MS] : PROBE_MS;
      return (steps[Math.min(probes, steps.length - 1)] as number) * (0.8 + 0.4 * random());
    },
    missed(why) {
      if (why !== "unreachable") probes++;
    },
    synced() {
      if (!policy.streams) settle();
      policy.streams = true;
    },
    forgive() {
      backoff.worked();
      probes = 0;
    },
  };
  return policy;
}
