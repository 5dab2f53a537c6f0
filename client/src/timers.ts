/** Timers by name, so that there are never two of one kind. */

import type { Environment } from "./environment.js";

export interface Timers {
  /** Run once after `ms`, instead of what was to run under this name. */
  set(name: string, ms: number, run: () => void): void;
  has(name: string): boolean;
  clear(...names: string[]): void;
  clearAll(): void;
}

export function createTimers({ setTimeout, clearTimeout }: Pick<Environment, "setTimeout" | "clearTimeout">): Timers {
  const handles = new Map<string, unknown>();
  const timers: Timers = {
    set(name, ms, run) {
      timers.clear(name);
      const fire = () => {
        handles.delete(name);
        run();
      };
      handles.set(name, setTimeout(fire, ms));
    },
    has: (name) => handles.has(name),
    clear(...names) {
      for (const name of names) {
        clearTimeout(handles.get(name));
        handles.delete(name);
      }
    },
    clearAll: () => timers.clear(...handles.keys()),
  };
  return timers;
}
