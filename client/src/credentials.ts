/** How one follower uses a token that others may share: it gives up when a new one is refused like the old. */

import type { Auth, Token } from "./auth.js";

export interface Credentials {
  /** The server takes the token. */
  accepted(): void;
  /** The server does not take `token`: say whether another may do better, and have it fetched. */
  recovers(token: Token): boolean;
}

/** A token that is refused so soon after the last one will not be followed by a better one. */
const NEW_MS = 60_000;

export function createCredentials(auth: Auth, now: () => number): Credentials {
  let renewedAt = 0;
  return {
    accepted() {
      renewedAt = 0;
    },
    recovers(token) {
      // Another token than the one in use was replaced meanwhile.
      if (token !== auth.current) return true;
      if (!auth.renewable || (renewedAt && now() - renewedAt < NEW_MS)) return false;
      renewedAt = now();
      auth.refuse();
      return true;
    },
  };
}
