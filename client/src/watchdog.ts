/** Notices silence and sleep. Clocks are compared, ticks not counted: the timers of hidden pages come late. */

import type { Timers } from "./timers.js";

const TICK_MS = 5_000;
const LATE_MS = 10_000;

/** How long a stream with this heartbeat may be silent, in ms. */
export const patience = (heartbeat: number): number => 2.5 * heartbeat + 2_000;

export interface Watchdog {
  /** Something was heard; be patient for `ms` from now on. */
  expect(ms: number): void;
  /** For how long nothing has been heard, in ms. */
  silence(): number;
}

/** Call `dead` once nothing has been heard for as long as was last expected. */
export function createWatchdog(timers: Timers, name: string, now: () => number, dead: () => void): Watchdog {
  let patient = 0;
  let heardAt = 0;
  // Either way: a clock that was set back must not make it wait for the time that it lost.
  const silence = () => Math.abs(now() - heardAt);
  const watch = () => {
    if (silence() < patient) timers.set(name, patient - silence(), watch);
    else dead();
  };
  return {
    silence,
    expect(ms) {
      heardAt = now();
      if (patient === ms) return;
      patient = ms;
      watch();
    },
  };
}

/** Call `woke` when a tick comes so late that the machine must have slept, or the page been frozen. */
export function watchSleep(timers: Timers, now: () => number, woke: () => void): void {
  const since = now();
  timers.set("tick", TICK_MS, () => {
    watchSleep(timers, now, woke);
    if (now() - since > TICK_MS + LATE_MS) woke();
  });
}
