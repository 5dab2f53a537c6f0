/** What the client needs of its surroundings: the global object of a page, a worker or Node, or a test's own. */

type Listen = Pick<EventTarget, "addEventListener">;

/** Everything with a clock, a dice or a socket. Nothing of it is reached before a stream is created. */
export interface Environment {
  readonly Date: { now(): number };
  readonly Math: { random(): number };
  readonly setTimeout: (run: () => void, ms: number) => unknown;
  // biome-ignore lint/suspicious/noExplicitAny: what a timer is differs between runtimes.
  readonly clearTimeout: (handle: any) => void;
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>;
  /** Tells `pagehide`, `pageshow`, `online` and `offline`, where there is such a thing. */
  readonly addEventListener?: Listen["addEventListener"];
  /** Tells `visibilitychange`, `freeze` and `resume`. */
  readonly document?: Listen & { readonly hidden: boolean };
  readonly navigator?: { readonly userAgent?: string; readonly connection?: Listen };
  readonly sessionStorage?: Pick<Storage, "getItem" | "setItem">;
}
