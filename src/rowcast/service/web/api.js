// Calls to the service: signs in as a guest by itself, and says in plain words what went wrong and what helps.

const SIGNED_IN_UNTIL = "rowcast-signed-in-until";

// status or code -> what a person should read; the code is more precise and wins
const WORDS = {
  session_full: "This session is full. Start a new session to ask more.",
  400: "The service did not understand this. Reload the page and try again.",
  401: "You are signed out. Reload the page to sign in again.",
  403: "The service refused this, because it did not come from its own page. Reload the page and try again.",
  404: "This is no longer there. It may have been deleted in another window.",
  409: "This was already done, or is under way. Wait a moment, then look again.",
  413: "This is too long. Shorten it and try again.",
  422: "One of the values does not fit. Check them and try again.",
  429: "That was a bit fast. Wait a moment and try again.",
  503: "The service is busy or restarting. Try again in a few seconds.",
};

export class ApiError extends Error {
  constructor(status, { code = "", error = "" } = {}, retryAfterMs = 0) {
    super(WORDS[code] ?? WORDS[status] ?? "The service had a problem of its own. Try again in a moment.");
    this.status = status;
    this.code = code;
    this.said = error;
    this.retryAfterMs = retryAfterMs;
  }
}

export class Unreachable extends Error {
  constructor() {
    super("The service cannot be reached. Check your connection and try again.");
    this.status = 0;
  }
}

/** `crypto.randomUUID` exists in secure contexts only; a machine on the local network is not one. */
export function idempotencyKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Api {
  #signingIn = null;
  #wasGuest = false;
  onNewGuest = () => {};

  /** An address below the page's own, so that the service may live under a path prefix. */
  url(path) {
    return new URL(`api/${path}`, document.baseURI);
  }

  /** Guests keep their cookie; one that is known to be valid is not asked for again. */
  async signIn({ again = false } = {}) {
    const validUntil = Number(recall(SIGNED_IN_UNTIL)) || 0;
    if (!again && Date.now() < validUntil - 60_000) {
      this.#wasGuest = true;
      return;
    }
    this.#signingIn ??= this.#askForCookie().finally(() => { this.#signingIn = null; });
    await this.#signingIn;
  }

  async #askForCookie() {
    const response = await this.#send("POST", "auth/guest", { body: {} });
    if (!response.ok) throw await refusal(response);
    const { expires_at: expiresAt } = await response.json().catch(() => ({}));
    remember(SIGNED_IN_UNTIL, String(expiresAt > 0 ? expiresAt * 1000 : Date.now() + 3_600_000));
    if (this.#wasGuest) this.onNewGuest();
    this.#wasGuest = true;
  }

  async #send(method, path, { body, headers = {}, signal } = {}) {
    // `no-store`: the browser's cache makes parallel long polls of one address wait for each other.
    const init = { method, headers: { Accept: "application/json", ...headers }, signal, cache: "no-store", credentials: "same-origin" };
    if (body !== undefined) {
      init.headers["Content-Type"] = "application/json";
      init.body = JSON.stringify(body);
    }
    try {
      return await fetch(this.url(path), init);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Unreachable();
    }
  }

  /** The response, whatever its status but 401, which is cured once by signing in. */
  async fetch(method, path, options = {}) {
    const response = await this.#send(method, path, options);
    if (response.status !== 401) return response;
    await this.signIn({ again: true });
    return this.#send(method, path, options);
  }

  async call(method, path, options) {
    const response = await this.fetch(method, path, options);
    if (!response.ok) throw await refusal(response);
    if (response.status === 204) return null;
    const text = await response.text();
    return text ? JSON.parse(text) : null;
  }

  config(options) { return this.call("GET", "config", options); }
  questions(options) { return this.call("GET", "questions", options); }
  createSession(name) { return this.call("POST", "session", { body: { name } }); }
  renameSession(id, name) { return this.call("PATCH", `session/${id}`, { body: { name } }); }
  deleteSession(id) { return this.call("DELETE", `session/${id}`, { body: {} }); }
  ask(sessionId, request, key) { return this.call("POST", `request/${sessionId}`, { body: { request }, headers: { "Idempotency-Key": key } }); }
  request(sessionId, sequenceNumber, options) { return this.call("GET", `request/${sessionId}/${sequenceNumber}`, options); }
  changeRequest(id, change) { return this.call("PATCH", `request/${id}`, { body: change }); }
  deleteRequest(id) { return this.call("DELETE", `request/${id}`, { body: {} }); }
}

export async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  return new ApiError(response.status, body ?? {}, retryAfterMs(response));
}

export function retryAfterMs(response) {
  const seconds = Number(response.headers.get("Retry-After"));
  return seconds > 0 ? seconds * 1000 : 0;
}

// Storage may be forbidden by the browser's settings; the page works without.
export function recall(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}

export function remember(key, value) {
  try { localStorage.setItem(key, value); } catch { /* the next visit signs in anew */ }
}
