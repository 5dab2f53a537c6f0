// Keeps one session's store equal to the server's state: by a stream where that works, by polling where not.
// Whatever ends (a stream, a poll, the network), the next connection resumes from the cursor, so nothing is missed.

import { retryAfterMs } from "./api.js";
import { RequestStore } from "./store.js";

const CONNECT_TIMEOUT_MS = 8_000;
const GAP_BEFORE_POLLING_MS = 2_000;
const STABLE_AFTER_MS = 10_000;
const MAX_BACKOFF_MS = 30_000;
const MAX_POLL_BACKOFF_MS = 5_000;
const SHORTEST_POLL_SPACING_MS = 200;
const PROBE_AFTER_MS = [30_000, 60_000, 120_000, 300_000, 600_000];
const SUSPEND_HIDDEN_AFTER_MS = 60_000;
const CLOCK_SAMPLES = 20;

export class LiveSession {
  store = new RequestStore();
  stopped = false;

  #api; #sessionId; #preference; #config; #report;
  #timers = new Map();
  #abort = new AbortController();

  #source = null;
  #openedAt = 0;
  #connectedAt = 0;
  #heardAt = 0;
  #synced = false;
  #degraded = false;
  #heartbeatMs;
  #cursor = null;
  #attempt = 0;
  #muteConnects = 0;
  #shortLives = 0;
  #probes = 0;
  #nextTryAt = 0;

  #fallback = null;         // why polling replaces the stream for now; null while the stream is preferred
  #polling = false;
  #pollRun = 0;
  #pollFailures = 0;
  #pollWorks = false;
  #holdRefused = false;
  #pollAbort = null;
  #etag = null;
  #pollMs; #maxWaitSeconds;

  #suspended = false;
  #hiddenSince = 0;
  #networkGone = false;
  #everSynced = false;
  #published = "";
  #clockOffsets = [];

  /**
   * `report` takes what happens: `changed(requestIds)`, `status(status)`, `gone()`, `applied(state, { lagMs })`.
   * `config` is the body of `GET /api/config`.
   */
  constructor({ api, sessionId, preference, config, report }) {
    this.#api = api;
    this.#sessionId = sessionId;
    this.#preference = preference;
    this.#config = config;
    this.#report = report;
    this.#heartbeatMs = config.heartbeat_ms || 5_000;
    this.#pollMs = config.poll?.interval_ms || 1_000;
    this.#maxWaitSeconds = config.poll?.max_wait_s ?? 0;
  }

  start() {
    const signal = this.#abort.signal;
    const when = (target, type, listener) => target.addEventListener(type, listener, { signal });
    when(window, "offline", () => { this.#networkGone = true; this.#publish(); });
    when(window, "online", () => { this.#networkGone = false; this.#wake(); });
    when(window, "pagehide", () => this.#suspend());
    when(window, "pageshow", (event) => { if (event.persisted) this.#resume(); });
    when(document, "freeze", () => this.#suspend());
    when(document, "resume", () => this.#resume());
    when(document, "visibilitychange", () => {
      this.#hiddenSince = document.hidden ? Date.now() : 0;
      if (!document.hidden) { this.#resume(); this.#wake(); }
    });
    this.#every(1_000, () => this.#watch());
    this.#begin();
  }

  /** Let go of everything; nothing is reported afterwards. */
  stop() {
    this.stopped = true;
    this.#abort.abort();
    this.#closeSource();
    this.#stopPolling();
    for (const name of [...this.#timers.keys()]) this.#clear(name);
  }

  setPreference(preference) {
    this.#preference = preference;
    this.#fallback = null;
    this.#muteConnects = this.#shortLives = this.#attempt = this.#probes = 0;
    this.#closeSource();
    this.#stopPolling();
    for (const name of ["retry", "gap", "probe", "stable"]) this.#clear(name);
    this.#begin();
  }

  /** What the person asked for: try at once, whatever the backoff says. */
  reconnect() {
    this.#networkGone = false;
    this.#attempt = 0;
    if (this.#wantsStream) this.#openStream();
    else this.#startPolling();
  }

  /** Something was sent and news is due: do not sit out a long interval. */
  nudge() {
    if (this.#polling && !this.#pollAbort) this.#timer("poll", 100, () => this.#pollOnce());
  }

  /** Take a state that came as the answer to a call of the page's own. */
  take(state) {
    if (!this.stopped && state?.session_id === this.#sessionId) this.#apply(state);
  }

  /** A request was deleted by a call of the page's own; its removal need not be waited for. */
  forget(requestId) {
    const known = this.store.states.get(requestId);
    if (!this.stopped && known && this.store.remove(requestId, known.version + 1)) this.#changed([requestId]);
  }

  /** The server's clock minus ours in ms, or null if it was never told. Best sample: the one least delayed on its way. */
  get clockOffsetMs() {
    return this.#clockOffsets.length ? Math.max(...this.#clockOffsets) : null;
  }

  get #wantsStream() {
    if (this.#preference === "poll") return false;
    return this.#preference === "stream" || this.#config.transport !== "poll";
  }

  get #mayPoll() {
    return this.#preference !== "stream" && this.#config.fallback !== false;
  }

  #begin() {
    if (this.#wantsStream) this.#openStream();
    else this.#startPolling();
    this.#publish();
  }

  // ── the stream ──

  #openStream() {
    if (this.stopped || this.#suspended) return;
    this.#closeSource();
    for (const name of ["retry", "probe", "stable"]) this.#clear(name);
    // A new EventSource object starts without a Last-Event-ID: the cursor travels in the query.
    const url = this.#api.url(`sse/${this.#sessionId}`);
    url.searchParams.set("proto", "1");
    if (this.#cursor) url.searchParams.set("cursor", this.#cursor);
    if (this.#shortLives >= 3) url.searchParams.set("hb", "1000");
    const knownBefore = this.store.ids();
    const source = new EventSource(url, { withCredentials: true });
    this.#source = source;
    this.#openedAt = this.#heardAt = Date.now();
    this.#timer("connect", CONNECT_TIMEOUT_MS, () => this.#streamEnded("mute"));

    const on = (name, take) => source.addEventListener(name, (event) => {
      if (source !== this.#source) return;
      this.#heardAt = Date.now();
      if (this.#networkGone) this.#networkGone = false;
      take(JSON.parse(event.data));
      // Only now is everything that this id covers in the store.
      if (event.lastEventId) this.#cursor = event.lastEventId;
      this.#publish();
    });

    on("connected", (data) => {
      this.#clear("connect");
      this.#muteConnects = 0;
      this.#etag = null; // what an earlier poll saw is not what the store holds once the stream has changed it
      this.#connectedAt = Date.now();
      this.#heartbeatMs = data.heartbeat_ms || this.#heartbeatMs;
      this.#hearClock(data.server_time ?? data.timestamp);
    });
    on("snapshot", (data) => {
      const epochBefore = this.store.epoch;
      this.#changed(this.store.takeSnapshot(data, knownBefore));
      if (epochBefore !== this.store.epoch) this.#etag = null;
    });
    on("request_update", (data) => this.#apply(data, { measure: data.cause === "live" }));
    on("request_removed", (data) => {
      if (this.store.remove(data.request_id, data.version)) this.#changed([data.request_id]);
    });
    on("resync", () => { this.#synced = false; this.store.dropSnapshot(); });
    on("synced", (data) => {
      this.#hearClock(data.server_time);
      this.#synced = this.#everSynced = true;
      this.#degraded = false;
      this.#fallback = null;
      this.#probes = 0;
      this.#clear("gap");
      this.#stopPolling();
      this.#timer("stable", STABLE_AFTER_MS, () => { this.#attempt = 0; this.#shortLives = 0; });
    });
    on("heartbeat", (data) => this.#hearClock(data.server_time));
    on("degraded", () => {
      this.#degraded = true;
      this.#pollAfterGap();
    });
    on("goodbye", (data) => this.#saidGoodbye(data));
    source.addEventListener("error", (event) => {
      if (source !== this.#source) return;
      // A server event named `error` carries data; the browser's own does not.
      if (typeof event.data === "string") this.#streamEnded("server");
      else this.#streamEnded(source.readyState === EventSource.CLOSED ? "refused" : "lost");
    });
    this.#publish();
  }

  #closeSource() {
    this.#source?.close();
    this.#source = null;
    this.#connectedAt = 0;
    this.#synced = false;
    this.#degraded = false;
    this.store.dropSnapshot();
    this.#clear("connect");
    this.#clear("stable");
  }

  /** The one way out of a stream that was not ended on purpose. Browsers differ in when they give up, so they never retry for us. */
  #streamEnded(why) {
    const wasConnected = this.#connectedAt > 0;
    const wasShort = wasConnected && Date.now() - this.#connectedAt < 2 * this.#heartbeatMs;
    this.#closeSource();
    if (why === "mute") this.#muteConnects += 1;
    if (wasConnected && (why === "lost" || why === "silent")) this.#shortLives = wasShort ? this.#shortLives + 1 : 0;

    if (this.#mayPoll && (this.#muteConnects >= 2 || this.#shortLives >= 6)) this.#fallback = "blocked";
    if (this.#fallback) return this.#pollInstead(this.#fallback);

    this.#retryIn(wasConnected && this.#attempt === 0 ? Math.random() * 1_000 : this.#backoffMs());
    if (why === "refused") this.#diagnose();
    else this.#pollAfterGap();
    this.#publish();
  }

  async #saidGoodbye({ reason, resume, retry_ms: retryMs = 0, transport }) {
    this.#closeSource();
    if (reason === "token_expired") {
      await this.#api.signIn({ again: true }).catch(() => {});
      if (this.stopped || this.#source) return;
    }
    if (reason === "session_closed") return this.#sessionGone();
    if (transport === "poll" && this.#mayPoll) return this.#pollInstead("asked");
    if (resume || reason === "token_expired") {
      this.#retryIn(retryMs * (1 + Math.random() * 0.4));
      this.#pollAfterGap();
    } else {
      // The server does not want this stream back. A poll tells what is left: the session, or nothing.
      this.#pollInstead("asked");
    }
    this.#publish();
  }

  #backoffMs() {
    return Math.random() * Math.min(MAX_BACKOFF_MS, 500 * 2 ** this.#attempt);
  }

  #retryIn(ms) {
    this.#attempt += 1;
    this.#nextTryAt = Date.now() + ms;
    this.#timer("retry", ms, () => this.#openStream());
  }

  /** EventSource hides the status of a refusal; a poll of the same session shows it. */
  #diagnose() {
    if (this.#mayPoll) this.#startPolling();
    else this.#lookForSession();
  }

  async #lookForSession() {
    try {
      const response = await this.#api.fetch("GET", `session/${this.#sessionId}`, { signal: this.#abort.signal });
      if (response.status === 404) this.#sessionGone();
    } catch { /* what cannot be reached is not gone */ }
  }

  #pollAfterGap() {
    if (!this.#mayPoll || this.#polling || this.#timers.has("gap")) return;
    this.#timer("gap", GAP_BEFORE_POLLING_MS, () => { if (!this.#isLive) this.#startPolling(); });
  }

  /** Poll for a good while, and look now and then whether a stream gets through again. */
  #pollInstead(why) {
    this.#fallback = why;
    this.#clear("retry");
    this.#clear("gap");
    const delay = PROBE_AFTER_MS[Math.min(this.#probes, PROBE_AFTER_MS.length - 1)] * (0.8 + Math.random() * 0.4);
    this.#probes += 1;
    this.#timer("probe", delay, () => this.#probe());
    this.#startPolling();
  }

  async #probe() {
    if (this.#fallback === "asked") {
      this.#config = await this.#api.config({ signal: this.#abort.signal }).catch(() => this.#config);
      if (this.stopped) return;
      if (!this.#wantsStream) return this.#pollInstead("asked");
    }
    this.#muteConnects = 1;
    this.#openStream();
  }

  get #isLive() {
    return this.#synced && !this.#degraded;
  }

  // ── polling ──

  #startPolling() {
    if (this.stopped || this.#suspended || this.#polling) return;
    this.#polling = true;
    this.#pollFailures = 0;
    this.#pollOnce();
    this.#publish();
  }

  #stopPolling() {
    this.#polling = this.#pollWorks = false;
    this.#pollRun += 1;
    this.#pollAbort?.abort();
    this.#pollAbort = null;
    this.#clear("poll");
  }

  async #pollOnce() {
    if (this.stopped || !this.#polling || this.#pollAbort) return;
    const run = this.#pollRun;
    const abort = this.#pollAbort = new AbortController();
    const askedAt = Date.now();
    // The server may hold a poll until there is news; not the first one after trouble, which is to show that all is well.
    const wait = this.#etag && this.#pollWorks && !this.#holdRefused ? this.#maxWaitSeconds : 0;
    const url = new URLSearchParams();
    if (this.#cursor) url.set("cursor", this.#cursor);
    if (wait) url.set("wait", String(wait));
    const deadline = setTimeout(() => abort.abort(), (wait + 15) * 1_000);
    let nextMs;
    try {
      const knownBefore = this.store.ids();
      const epochBefore = this.store.epoch;
      const response = await this.#api.fetch("GET", `session/${this.#sessionId}/requests${url.size ? `?${url}` : ""}`, {
        headers: this.#etag ? { "If-None-Match": this.#etag } : {},
        signal: abort.signal,
      });
      const body = response.status === 200 ? await response.json() : null;
      if (run !== this.#pollRun || this.stopped) return;
      if (response.status === 404) return this.#sessionGone();
      if (body) this.#takePoll(body, response.headers.get("ETag"), knownBefore, epochBefore);
      else if (response.status !== 304) {
        if (wait && response.status === 429) this.#holdRefused = true;
        throw Object.assign(new Error("refused"), { retryAfterMs: retryAfterMs(response) });
      }
      const heldAsAsked = wait > 0 && (body || Date.now() - askedAt > wait * 500);
      nextMs = heldAsAsked ? Math.max(0, SHORTEST_POLL_SPACING_MS - (Date.now() - askedAt)) : this.#pollPauseMs();
      if (this.#maxWaitSeconds && this.#etag && !wait && !this.#holdRefused) nextMs = 0;
      this.#pollSucceeded();
    } catch (error) {
      if (run !== this.#pollRun || this.stopped) return;
      this.#pollWorks = false;
      this.#pollFailures += 1;
      nextMs = Math.max(error.retryAfterMs ?? 0, Math.min(MAX_POLL_BACKOFF_MS, 500 * 2 ** this.#pollFailures) * (0.6 + Math.random() * 0.4));
      if (!this.#wantsStream) this.#nextTryAt = Date.now() + nextMs;
    } finally {
      clearTimeout(deadline);
      if (run === this.#pollRun) this.#pollAbort = null;
    }
    this.#publish();
    if (this.#polling && run === this.#pollRun) this.#timer("poll", nextMs, () => this.#pollOnce());
  }

  #pollPauseMs() {
    return this.#pollMs * (document.hidden ? 4 : 1) * (0.9 + Math.random() * 0.2);
  }

  #pollSucceeded() {
    const serverIsBack = this.#pollFailures > 0;
    this.#pollWorks = true;
    this.#pollFailures = 0;
    if (this.#networkGone) this.#networkGone = false;
    // The server answers again: no reason to sit out the stream's backoff.
    if (serverIsBack && this.#timers.has("retry")) this.#openStream();
  }

  #takePoll(body, etag, knownBefore, epochBefore) {
    // An answer that was overtaken by another epoch belongs to a database that is gone.
    if (this.store.epoch !== epochBefore && body.epoch !== this.store.epoch) return;
    if (body.mode === "delta" && body.epoch !== this.store.epoch) {
      this.#cursor = this.#etag = null;
      return;
    }
    if (body.mode === "delta") {
      for (const state of body.requests) this.#apply(state, { measure: this.#pollWorks });
    } else {
      this.#changed(this.store.takeSnapshot({ epoch: body.epoch, requests: body.requests, more: false }, knownBefore));
    }
    for (const { request_id: requestId, version } of body.removed ?? []) {
      if (this.store.remove(requestId, version)) this.#changed([requestId]);
    }
    this.#cursor = body.cursor ?? this.#cursor;
    this.#etag = etag;
    this.#pollMs = body.poll?.interval_ms || this.#pollMs;
    this.#maxWaitSeconds = body.poll?.max_wait_s ?? this.#maxWaitSeconds;
    this.#everSynced = true;
  }

  // ── what holds for both ──

  #apply(state, { measure = false } = {}) {
    if (!this.store.apply(state)) return;
    const offset = this.clockOffsetMs;
    const lagMs = measure && offset !== null ? Math.max(0, Date.now() + offset - state.updated_at * 1_000) : null;
    this.#report.applied(state, { lagMs });
    this.#changed([state.request_id]);
  }

  #changed(requestIds) {
    this.#report.changed(requestIds);
  }

  #hearClock(serverTime) {
    if (!(serverTime > 0)) return;
    this.#clockOffsets.push(serverTime * 1_000 - Date.now());
    if (this.#clockOffsets.length > CLOCK_SAMPLES) this.#clockOffsets.shift();
  }

  #sessionGone() {
    if (this.stopped) return;
    this.stop();
    this.#report.gone();
  }

  /** Once a second: is the stream still alive, did the machine sleep, is anybody looking? Clocks are compared, ticks not counted. */
  #watch() {
    const silence = Date.now() - this.#heardAt;
    if (this.#source && this.#connectedAt && silence > 2.5 * this.#heartbeatMs + 2_000) this.#streamEnded("silent");
    if (this.#hiddenSince && Date.now() - this.#hiddenSince > SUSPEND_HIDDEN_AFTER_MS && !this.#hasOpenRequests()) this.#suspend();
    this.#publish();
  }

  #hasOpenRequests() {
    for (const state of this.store.states.values()) if (!state.terminal) return true;
    return false;
  }

  /** The network or the viewer is back. */
  #wake() {
    if (this.stopped || this.#suspended) return;
    this.#attempt = 0;
    if (!this.#wantsStream || this.#fallback) this.nudge();
    else if (!this.#source || Date.now() - this.#heardAt > 1.5 * this.#heartbeatMs) this.#openStream();
    this.#publish();
  }

  #suspend() {
    if (this.stopped || this.#suspended) return;
    this.#suspended = true;
    this.#closeSource();
    this.#stopPolling();
    for (const name of ["retry", "gap", "probe"]) this.#clear(name);
  }

  #resume() {
    if (this.stopped || !this.#suspended) return;
    this.#suspended = false;
    this.#attempt = 0;
    if (this.#fallback) this.#pollInstead(this.#fallback);
    else this.#begin();
  }

  #status() {
    const facts = {
      transport: this.#source && this.#synced ? "stream" : this.#polling ? "poll" : "none",
      longPoll: this.#maxWaitSeconds > 0 && !this.#holdRefused,
      fallback: this.#fallback,
      pollMs: this.#pollMs,
      databaseAway: this.#degraded,
      nextTrySeconds: Math.max(0, Math.ceil((this.#nextTryAt - Date.now()) / 1_000)),
      everSynced: this.#everSynced,
    };
    if (this.#networkGone || (navigator.onLine === false && !this.#isLive && !this.#pollWorks)) return { state: "offline", ...facts };
    if (this.#isLive) return { state: "live", ...facts };
    if (this.#polling && this.#pollWorks) return { state: "polling", ...facts };
    const firstTry = this.#attempt === 0 && this.#pollFailures === 0 && !this.#degraded && (this.#source || this.#polling);
    if ((this.#connectedAt && !this.#degraded) || firstTry) return { state: "catching-up", ...facts };
    return { state: "reconnecting", ...facts };
  }

  #publish() {
    if (this.stopped) return;
    const status = this.#status();
    const published = JSON.stringify(status);
    if (published === this.#published) return;
    this.#published = published;
    this.#report.status(status);
  }

  /** At most one timer of each name. */
  #timer(name, ms, run) {
    this.#clear(name);
    this.#timers.set(name, setTimeout(() => { this.#timers.delete(name); if (!this.stopped) run(); }, ms));
  }

  #every(ms, run) {
    const timer = setInterval(run, ms);
    this.#abort.signal.addEventListener("abort", () => clearInterval(timer), { once: true });
  }

  #clear(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}
