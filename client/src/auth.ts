/** What a client proves itself with: cookies, or a token that is fetched when it is needed. */

/** Why a token is asked for. */
export type TokenReason = "start" | "unauthorized" | "expiring";

/** Undefined: there was none yet, or it was refused. Null: there will be none any more. */
export type Token = string | null | undefined;

export interface AuthOptions {
  /**
   * Return a token for the Authorization header, or null if there will be none any more, which ends the stream.
   * Whatever it throws is tried again later.
   */
  readonly getToken?: (reason: TokenReason) => Promise<string | null> | string | null;
  /** Send cookies to another origin, too. */
  readonly cookies?: boolean;
}

/** However many streams share it, one fetch at a time is under way, and all of them wait for that one. */
export interface Auth {
  /** Whether there is anything to be hoped for once a token is refused. */
  readonly renewable: boolean;
  readonly credentials: RequestCredentials;
  /** The token that is in use. */
  readonly current: Token;
  /** Return the token; another than `spent`, if that is given. */
  token(spent?: Token): Promise<Token>;
  /** It is not accepted: have another fetched. */
  refuse(): void;
}

/** A fetch that takes longer is given up for another. */
const MOST_MS = 30_000;

export function createAuth({ getToken, cookies }: AuthOptions, now: () => number = Date.now): Auth {
  let fetching: Promise<Token> | undefined;
  let since = 0;
  let current: Token;
  let reason: TokenReason = "start";

  const fetchToken = async () => getToken?.(current ? "expiring" : reason);

  return {
    renewable: !!getToken,
    credentials: cookies ? "include" : "same-origin",
    get current() {
      return current;
    },
    async token(spent) {
      if (current && current !== spent) return current;
      if (!fetching || now() - since > MOST_MS) {
        since = now();
        fetching = fetchToken();
      }
      const mine = fetching;
      try {
        const token = await mine;
        // Another may have been fetched meanwhile.
        if (mine === fetching) current = token;
        return token;
      } finally {
        if (mine === fetching) fetching = undefined;
      }
    },
    refuse() {
      reason = "unauthorized";
      current = undefined;
    },
  };
}
