/** What can be measured of a stream, and a beacon that tells the service. */

import { type Auth, type AuthOptions, createAuth } from "./auth.js";
import { createRequestStream } from "./client.js";
import type { Environment } from "./environment.js";
import type { RequestStream, RequestStreamOptions } from "./options.js";
import type { Counts } from "./protocol.js";
import { createTimers } from "./timers.js";

export interface Metric {
  readonly name: MetricName;
  readonly value: number;
  readonly labels: Readonly<Record<string, string>>;
}

export type MetricName =
  | "connect_ms" // from asking for a stream to its first event
  | "catch_up_ms" // from there until it is synced
  | "event_lag_ms" // from the change of a row until it was heard, by the server's clock
  | "reconnects"
  | "fallback"
  | "gap_polls" // polls that were answered while no stream was live
  | "duplicates"
  | "stale"
  | "skipped";

/** Follow a session as `createRequestStream` does, and tell `onMetric` how that goes. */
export function createMeasuredStream(
  options: RequestStreamOptions & { readonly onMetric: (metric: Metric) => void },
): RequestStream {
  const { onMetric, environment = globalThis } = options;
  const { now } = environment.Date;
  let status = "idle";
  let since = now();
  let skew = Number.POSITIVE_INFINITY;
  let counted: Counts = { duplicates: 0, stale: 0, skipped: 0, polls: 0 };

  const measure = (name: MetricName, value: number, labels: Metric["labels"] = {}) => onMetric({ name, value, labels });

  const count = () => {
    const { counts } = live;
    for (const name of ["duplicates", "stale", "skipped"] as const)
      if (counts[name] > counted[name]) measure(name, counts[name] - counted[name]);
    if (status !== "polling" && counts.polls > counted.polls) measure("gap_polls", counts.polls - counted.polls);
    counted = { ...counts };
  };

  const live = createRequestStream({
    ...options,
    onStatus(next, reason) {
      count();
      if (status === "connecting" && next === "catching_up") measure("connect_ms", now() - since);
      if (status === "catching_up" && next === "live") measure("catch_up_ms", now() - since);
      if (next === "reconnecting") measure("reconnects", 1, { reason });
      if (next === "polling" && reason) measure("fallback", 1, { reason });
      if (next !== status) since = now();
      status = next;
      options.onStatus?.(next, reason);
    },
    onEvent(event) {
      const { server_time, updated_at, cause } = JSON.parse(event.data);
      // The clocks differ by no more than in the event that was under way for the shortest time.
      if (event.name === "connected") skew = Number.POSITIVE_INFINITY;
      if (server_time > 0) skew = Math.min(skew, now() - server_time * 1_000);
      if (cause === "live" && skew < Number.POSITIVE_INFINITY)
        measure("event_lag_ms", Math.max(0, now() - skew - updated_at * 1_000));
      options.onEvent?.(event);
    },
  });
  return live;
}

export interface BeaconOptions {
  readonly baseUrl?: string;
  readonly auth?: Auth | AuthOptions;
  readonly environment?: Environment;
}

export interface Beacon {
  /** Keep a metric for the next batch; of too many, the oldest go. */
  (metric: Metric): void;
  /** Send what there is, as before the page goes. */
  flush(): void;
}

const MOST_METRICS = 100;
const EVERY_MS = 10_000;

/**
 * Return an `onMetric` that sends what it is told to the service, in batches. It uses `fetch`, which outlives the page
 * like `navigator.sendBeacon`, since that cannot carry a token.
 */
export function createBeacon({ baseUrl = "", auth: given = {}, environment = globalThis }: BeaconOptions = {}): Beacon {
  const auth = "token" in given ? given : createAuth(given, environment.Date.now);
  const timers = createTimers(environment);
  let batch: Metric[] = [];

  const flush = async () => {
    timers.clear("beacon");
    const metrics = batch;
    batch = [];
    if (!metrics.length) return;
    try {
      const token = await auth.token();
      await environment.fetch(`${baseUrl}/api/client-metrics`, {
        method: "POST",
        headers: { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) },
        credentials: auth.credentials,
        keepalive: true,
        body: JSON.stringify({ metrics }),
      });
    } catch {
      // Figures are no reason to try again.
    }
  };

  const keep = (metric: Metric) => {
    batch = [...batch, metric].slice(-MOST_METRICS);
    if (!timers.has("beacon")) timers.set("beacon", EVERY_MS, flush);
  };
  environment.addEventListener?.("pagehide", flush);
  return Object.assign(keep, { flush: () => void flush() });
}
