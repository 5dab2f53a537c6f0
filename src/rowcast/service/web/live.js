// The open session as the page shows it: what the client knows of it, and the page's own words for what it is doing.

import { byServer, createBeacon, createMeasuredStream } from "./rowcast.js";

const SIGN_IN_AGAIN_AFTER_MS = 60_000;
const CLOCK_SAMPLES = 20;
const TRANSPORTS = { auto: "auto", stream: "sse", poll: "poll" };

const STATES = {
  idle: "catching-up",
  connecting: "catching-up",
  catching_up: "catching-up",
  live: "live",
  polling: "polling",
  reconnecting: "reconnecting",
  suspended: "reconnecting",
  stopped: "reconnecting",
};

export class LiveSession {
  #api; #sessionId; #report; #measures;
  #live = null;
  #everSynced = false;
  #isReconnecting = false;
  #signedInAt = 0;
  #clockOffsets = [];
  #abort = new AbortController();

  /**
   * `report` takes what happens: `changed()`, `status(status)`, `applied(state)`, `lag(ms)`, `gone()`.
   * `measures`: whether the service wants to know what is measured here.
   */
  constructor({ api, sessionId, preference, measures, report }) {
    this.#api = api;
    this.#sessionId = sessionId;
    this.#report = report;
    this.#measures = measures;
    for (const type of ["online", "offline"]) addEventListener(type, () => this.#publish(), { signal: this.#abort.signal });
    this.setPreference(preference);
  }

  /** The requests, oldest first. */
  get requests() {
    return this.#live.getSnapshot();
  }

  get(requestId) {
    return this.#live.get(requestId);
  }

  /** The server's clock minus ours in ms, or null if it was never told. Best sample: the one least delayed on its way. */
  get clockOffsetMs() {
    return this.#clockOffsets.length ? Math.max(...this.#clockOffsets) : null;
  }

  /** `auto`, `stream` or `poll`: what a person has chosen. */
  setPreference(preference) {
    const requests = this.#live?.getSnapshot() ?? [];
    this.#live?.stop();
    const beacon = this.#measures ? createBeacon({ baseUrl: this.#base }) : () => {};
    this.#live = createMeasuredStream({
      sessionId: this.#sessionId,
      baseUrl: this.#base,
      auth: { getToken: (reason) => this.#signIn(reason) },
      transport: TRANSPORTS[preference],
      rollout: byServer,
      initial: { requests },
      onUpdate: (state, { removed }) => {
        if (!removed) this.#report.applied(state);
        this.#report.changed();
      },
      onStatus: (status, reason) => this.#heed(status, reason),
      onEvent: ({ name, data }) => this.#hearClock(name, data),
      onMetric: (metric) => {
        if (metric.name === "event_lag_ms") this.#report.lag(metric.value);
        beacon(metric);
      },
    });
    this.#publish();
  }

  /** What the person asked for: try at once, whatever was waited for. */
  reconnect() {
    this.#live.reconnect();
  }

  /** Something was sent and news is due: do not sit out a long interval. */
  nudge() {
    if (this.#live.status === "polling") this.#live.reconnect();
  }

  /** Let go of everything; nothing is reported afterwards. */
  stop() {
    this.#abort.abort();
    this.#live.stop();
  }

  /** An address below the page's own, so that the service may live under a path prefix. */
  get #base() {
    return this.#api.url("..").href.replace(/\/$/, "");
  }

  /** Cookies are the token here; who is refused becomes a guest again. */
  async #signIn(reason) {
    if (reason !== "start" && Date.now() - this.#signedInAt > SIGN_IN_AGAIN_AFTER_MS) {
      this.#signedInAt = Date.now();
      await this.#api.signIn({ again: true });
    }
  }

  #heed(status, reason) {
    if (this.#abort.signal.aborted) return;
    if (status === "live" || status === "polling") this.#everSynced = true;
    // A stream that was lost, and is not back yet.
    if (status === "reconnecting") this.#isReconnecting = true;
    else if (status !== "connecting") this.#isReconnecting = false;
    if (status === "stopped" && reason !== "stopped" && reason !== "unauthorized") return this.#report.gone();
    this.#publish();
  }

  #hearClock(name, data) {
    if (!["connected", "synced", "heartbeat"].includes(name)) return;
    const { server_time: serverTime } = JSON.parse(data);
    if (serverTime > 0) this.#clockOffsets = [...this.#clockOffsets, serverTime * 1_000 - Date.now()].slice(-CLOCK_SAMPLES);
  }

  #publish() {
    const { status, reason } = this.#live;
    const transport = { live: "stream", polling: "poll" }[status] ?? "none";
    let state = this.#isReconnecting ? "reconnecting" : STATES[status];
    if (state !== "live" && state !== "polling" && navigator.onLine === false) state = "offline";
    this.#report.status({ state, transport, reason, everSynced: this.#everSynced });
  }
}
