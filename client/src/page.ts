/** What a page tells of itself: who looks at it, whether it goes to sleep, and whether there is a network. */

import type { Environment } from "./environment.js";
import type { Timers } from "./timers.js";

export interface PageListeners {
  /** The page is put away, or has been hidden for too long. */
  suspend(): void;
  /** It is back, or looked at. */
  resume(): void;
  /** The network is back, or another one; or it is gone, as far as the browser can tell. */
  network(isThere: boolean): void;
}

/** Tell what happens to the page until `signal`; `most` is how long it may be hidden in ms, 0: for ever. */
export function watchPage(
  environment: Environment,
  timers: Timers,
  signal: AbortSignal,
  on: PageListeners,
  most: number,
): void {
  const { document, navigator } = environment;
  const listen = (target: Pick<Environment, "addEventListener"> | undefined, run: () => void, ...types: string[]) => {
    for (const type of types) target?.addEventListener?.(type, run, { signal });
  };
  const look = () => {
    timers.clear("hidden");
    if (!document?.hidden) on.resume();
    else if (most) timers.set("hidden", most, on.suspend);
  };
  listen(document, look, "visibilitychange");
  listen(document, on.suspend, "freeze");
  listen(document, on.resume, "resume");
  // A stream that is closed here keeps the page fit for the back/forward cache, and frees the server.
  listen(environment, on.suspend, "pagehide");
  listen(environment, on.resume, "pageshow");
  listen(environment, () => on.network(true), "online");
  listen(environment, () => on.network(false), "offline");
  listen(navigator?.connection, () => on.network(true), "change");
}
