/** What a browser session remembers: whether streams get through. */

import type { Environment } from "./environment.js";

export interface Memory {
  /** Whether a stream was found not to get through of late, and none ever did. */
  isAgainst(): boolean;
  /** A stream got through, or did not. */
  note(works: boolean): void;
}

const KEY = "rowcast";
const WORKS = "ok";
const REMEMBER_MS = 600_000;

/** Where a stream once worked, one will again; only where none ever did, polling comes first for a while. */
export function createMemory(environment: Environment): Memory {
  const { now } = environment.Date;
  const recall = (next?: string) => {
    try {
      const { sessionStorage } = environment;
      const known = sessionStorage?.getItem(KEY);
      if (next && known !== WORKS) sessionStorage?.setItem(KEY, next);
      return known;
    } catch {
      return undefined; // It is full, or forbidden.
    }
  };
  return {
    isAgainst: () => Number(recall()) > now(),
    note: (works) => void recall(works ? WORKS : `${now() + REMEMBER_MS}`),
  };
}
