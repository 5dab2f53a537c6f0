/** Asking the server: what all requests have in common, and what it means when one is refused. */

import type { Auth, Token } from "./auth.js";
import type { Environment } from "./environment.js";
import type { Why } from "./policy.js";

/** Why something did not come, or ended; `reason` says more, and `floor` how long to wait at least, in ms. */
export interface Refusal {
  readonly why: Why;
  readonly reason?: string;
  readonly floor?: number;
}

/**
 * Ask with what the client proves itself with. `asked` is told the token with which the request goes its way, which is
 * another than `spent`. What comes is an answer that is good, or not modified, or else it is a refusal.
 */
export type Send = (
  url: string,
  headers: Readonly<Record<string, string>>,
  signal: AbortSignal,
  asked?: (token: Token) => void,
  spent?: Token,
  method?: "POST",
) => Promise<Response | Refusal>;

const MOST_FLOOR_MS = 600_000;

const WHY: { readonly [status: number]: Why } = {
  204: "over",
  401: "unauthorized",
  403: "over",
  404: "over",
  406: "no_stream",
  415: "no_stream",
  429: "busy",
  501: "no_stream",
  503: "busy",
};

export function createSend({ fetch }: Pick<Environment, "fetch">, auth: Auth): Send {
  return async (url, headers, signal, asked, spent, method) => {
    let token: Token;
    try {
      token = await auth.token(spent);
    } catch {
      return { why: "auth" };
    }
    if (token === null) return { why: "over", reason: "unauthorized" };
    // Whoever asked may have left while the token was fetched.
    if (signal.aborted) return { why: "unreachable" };
    asked?.(token);
    try {
      const response = await fetch(url, {
        // A header of the request, never of the URL; a redirect to another origin is followed without it.
        headers: token ? { ...headers, Authorization: `Bearer ${token}` } : headers,
        credentials: auth.credentials,
        cache: "no-store",
        signal,
        ...(method && { method }),
      });
      const { status } = response;
      if (!WHY[status] && (response.ok || status === 304)) return response;
      // A Retry-After in seconds; its other form, a date, is left to the backoff.
      const floor = Math.min(Number(response.headers.get("retry-after")) * 1_000 || 0, MOST_FLOOR_MS);
      return { why: WHY[status] ?? "failed", reason: `http_${status}`, floor };
    } catch {
      return { why: "unreachable" };
    }
  };
}
