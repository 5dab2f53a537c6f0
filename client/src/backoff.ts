/** How long to wait before the next try. */

export const CAP_MS = 30_000;

const FIRST_MS = 500;
const SOON_MS = 2_000;

/** Waits that grow with every failure, with full jitter, but never beyond half of what the outage has lasted. */
export interface Backoff {
  /** Count a failure and return the wait after it in ms: the backoff, or `floor` and up to 40 % more. */
  next(floor?: number): number;
  /** Note that there is no outage now; it is over for good if `lasting`. */
  worked(lasting?: boolean): void;
}

/** Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/. */
export function createBackoff(now: () => number, random: () => number): Backoff {
  let failures = 0;
  let awaySince = now();
  return {
    next(floor = 0) {
      const limit = Math.min(CAP_MS, FIRST_MS * 2 ** failures++);
      // The end of a short outage is noticed soon, and a long one costs little.
      const most = Math.max(SOON_MS, (now() - awaySince) / 2);
      return Math.max(Math.min(limit * (0.1 + 0.9 * random()), most), floor * (1 + 0.4 * random()));
    },
    worked(lasting = true) {
      awaySince = now();
      if (lasting) failures = 0;
    },
  };
}
