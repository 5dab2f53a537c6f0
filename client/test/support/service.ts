/** A service in memory that keeps to the wire contract, and a network to it that fails on demand. */

import type { RequestState } from "../../src/protocol.js";
import type { Clock } from "./clock.js";

export const SESSION = "0197a1c0-0000-7000-8000-000000000001";

/** What the network does with the next connections. */
export type Weather =
  | "fine"
  | "refuses"
  | "hangs" // no answer
  | "mutes" // headers, and no body
  | "ends" // headers, and the end
  | "mumbles" // comments, and no event
  | "stalls" // after the first event
  | "html"
  | "cuts" // after the first events
  | number; // a status

type Row = { state: RequestState; at: number };

class Wire {
  readonly pieces: Uint8Array[] = [];
  ended = false;
  failed = false;
  stalled = false;
  #wake: (() => void) | undefined;

  constructor(readonly signal: AbortSignal) {
    signal.addEventListener("abort", () => this.#stir());
  }

  get isOpen(): boolean {
    return !this.ended && !this.failed && !this.signal.aborted;
  }

  send(text: string, size = 1 << 20): void {
    if (!this.isOpen || this.stalled) return;
    const bytes = new TextEncoder().encode(text);
    for (let at = 0; at < bytes.length; at += size) this.pieces.push(bytes.slice(at, at + size));
    this.#stir();
  }

  end(): void {
    this.ended = true;
    this.#stir();
  }

  fail(): void {
    this.failed = true;
    this.#stir();
  }

  async read(): Promise<{ done: boolean; value?: Uint8Array }> {
    for (;;) {
      if (this.signal.aborted) throw new DOMException("aborted", "AbortError");
      const value = this.pieces.shift();
      if (value) return { done: false, value };
      if (this.failed) throw new TypeError("network error");
      if (this.ended) return { done: true };
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  #stir(): void {
    this.#wake?.();
    this.#wake = undefined;
  }
}

export class Stream {
  readonly id = crypto.randomUUID();
  constructor(
    readonly wire: Wire,
    readonly url: URL,
    readonly token: string | null,
    readonly heartbeat: number,
  ) {}
}

interface Held {
  answer(): void;
}

export class Service {
  /** For streams, and for everything else. */
  weather: Weather = "fine";
  pollWeather: Weather = "fine";
  retryAfter: number | undefined;
  /** Of what is written, how many bytes arrive in one piece. */
  pieces = 1 << 20;
  heartbeat = 5_000;
  maxWait = 25;
  degraded = false;
  /** Tokens that are accepted; none: no token is asked for. */
  tokens: Set<string> | undefined;
  transport: "sse" | "poll" = "sse";
  exists = true;

  readonly asked: { url: URL; token: string | null; etag: string | null; at: number }[] = [];
  readonly streams = new Set<Stream>();
  readonly rows = new Map<string, Row>();
  pending = 0;

  #epoch = 1;
  #horizon = 1;
  #lostAt = 0;
  #lostEpoch = 1;
  #clockTimers;
  readonly #graves = new Map<string, { version: number; at: number }>();
  readonly #held = new Set<Held>();

  constructor(readonly clock: Clock) {
    this.#clockTimers = clock.timersOf("service");
  }

  get epoch(): string {
    return `epoch-${this.#epoch}`;
  }

  get cursor(): string {
    return `1.${this.epoch}.${this.#horizon}`;
  }

  get states(): RequestState[] {
    return [...this.rows.values()].map((row) => row.state).sort((a, b) => a.request_id.localeCompare(b.request_id));
  }

  get liveStreams(): Stream[] {
    return [...this.streams].filter((stream) => stream.wire.isOpen);
  }

  // -- what happens in the database --

  change(id: string, fields: Partial<RequestState> = {}): RequestState {
    const before = this.rows.get(id)?.state;
    const version = Math.max(before?.version ?? 0, this.#graves.get(id)?.version ?? 0) + 1;
    const status = fields.status ?? "in_progress";
    const state: RequestState = {
      request_id: id,
      session_id: SESSION,
      updated_at: this.clock.now / 1_000,
      has_response: status === "done",
      has_error: status === "error",
      sequence_number: before?.sequence_number ?? this.rows.size + 1,
      terminal: status === "done" || status === "error",
      ...fields,
      status,
      version,
    };
    this.#graves.delete(id);
    this.rows.set(id, { state, at: ++this.#horizon });
    this.#publish("request_update", { ...state, cause: "live" });
    return state;
  }

  remove(id: string): void {
    const before = this.rows.get(id)?.state;
    if (!before) return;
    const version = before.version + 1;
    this.rows.delete(id);
    this.#graves.set(id, { version, at: ++this.#horizon });
    this.#publish("request_removed", { request_id: id, session_id: SESSION, version });
  }

  /** The database is another, as after a restore: versions start anew. */
  restore(): void {
    this.#epoch++;
    this.#horizon = 1;
    this.#graves.clear();
    for (const row of this.rows.values()) {
      row.state = { ...row.state, version: 1, status: `${row.state.status}'` };
      row.at = 1;
    }
    this.resync("epoch_changed");
    this.#release();
  }

  /** Tell all streams everything anew. */
  resync(reason: string): void {
    if (this.degraded) return;
    for (const stream of this.streams) {
      stream.wire.send(event("resync", { reason }), this.pieces);
      this.#tellAll(stream);
    }
    this.#release();
  }

  degrade(): void {
    if (this.degraded) return;
    this.degraded = true;
    this.#lostAt = this.#horizon;
    this.#lostEpoch = this.#epoch;
    for (const stream of this.streams)
      stream.wire.send(event("degraded", { reason: "database", since: 1 }), this.pieces);
  }

  recover(): void {
    if (!this.degraded) return;
    this.degraded = false;
    if (this.#lostEpoch !== this.#epoch) {
      this.resync("epoch_changed");
      return;
    }
    for (const { state, at } of this.rows.values())
      if (at > this.#lostAt) this.#publish("request_update", { ...state, cause: "live" });
    for (const [request_id, { version, at }] of this.#graves)
      if (at > this.#lostAt) this.#publish("request_removed", { request_id, session_id: SESSION, version });
    this.say(event("synced", { cursor: this.cursor, server_time: this.clock.now / 1_000 }, this.cursor));
  }

  #publish(name: string, data: object): void {
    if (!this.degraded)
      for (const stream of this.streams) stream.wire.send(event(name, data, this.cursor), this.pieces);
    this.#release();
  }

  // -- the network --

  say(text: string): void {
    for (const stream of this.streams) stream.wire.send(text, this.pieces);
  }

  goodbye(data: object): void {
    this.say(event("goodbye", data));
    this.endAll();
  }

  endAll(): void {
    for (const stream of this.streams) stream.wire.end();
    this.streams.clear();
  }

  resetAll(): void {
    for (const stream of this.streams) stream.wire.fail();
    this.streams.clear();
  }

  /** Half-open: nothing arrives any more, and nobody is told. */
  stallAll(): void {
    for (const stream of this.streams) stream.wire.stalled = true;
    this.#held.clear();
  }

  fetch = async (url: string, init: RequestInit): Promise<Response> => {
    this.pending++;
    try {
      return await this.#serve(new URL(url, "http://service"), init);
    } finally {
      this.pending--;
    }
  };

  async #serve(url: URL, { headers, signal }: RequestInit): Promise<Response> {
    const sent = headers as Record<string, string>;
    const token = sent["Authorization"]?.slice("Bearer ".length) ?? null;
    const etag = sent["If-None-Match"] ?? null;
    const isStream = url.pathname.startsWith("/api/sse/");
    const weather = isStream ? this.weather : this.pollWeather;
    const given = signal as AbortSignal;
    if (given.aborted) throw new DOMException("aborted", "AbortError");
    this.asked.push({ url, token, etag, at: this.clock.now });
    if (weather === "refuses") throw new TypeError("failed to fetch");
    if (weather === "hangs") await aborted(given);
    if (weather === "html") return answer(200, "<html>", { "content-type": "text/html" });
    if (typeof weather === "number") return answer(weather, "{}", this.#retryHeaders());
    if (this.tokens && !(token && this.tokens.has(token))) return answer(401);
    if (url.pathname === "/api/config")
      return answer(200, JSON.stringify({ transport: this.transport, fallback: null }));
    if (!this.exists) return answer(404);
    return isStream ? this.#open(url, token, given, weather) : this.#poll(url, etag, given);
  }

  #retryHeaders(): Record<string, string> {
    return this.retryAfter === undefined ? {} : { "retry-after": String(this.retryAfter) };
  }

  #open(url: URL, token: string | null, signal: AbortSignal, weather: Weather): Response {
    const wire = new Wire(signal);
    const heartbeat = Number(url.searchParams.get("hb") ?? this.heartbeat);
    const stream = new Stream(wire, url, token, heartbeat);
    if (weather === "ends") wire.end();
    else if (weather === "mumbles") this.#mumble(wire);
    else if (weather !== "mutes") {
      this.streams.add(stream);
      const since = this.#position(url);
      const mode = since === undefined ? (url.searchParams.get("cursor") ? "resync" : "snapshot") : "resume";
      const hello = { session_id: SESSION, timestamp: 1, protocol: 1, stream_id: stream.id, epoch: this.epoch };
      const server_time = this.clock.now / 1_000;
      wire.send(event("connected", { ...hello, heartbeat_ms: heartbeat, mode, server_time }), this.pieces);
      wire.stalled = weather === "stalls";
      if (since === undefined) this.#tellAll(stream);
      else {
        for (const { state, at } of this.rows.values())
          if (at >= since) wire.send(event("request_update", { ...state, cause: "catchup" }), this.pieces);
        for (const [request_id, { version, at }] of this.#graves)
          if (at >= since)
            wire.send(event("request_removed", { request_id, session_id: SESSION, version }), this.pieces);
        wire.send(event("synced", { cursor: this.cursor, server_time }, this.cursor), this.pieces);
      }
      if (this.degraded) wire.send(event("degraded", { reason: "database", since: 1 }), this.pieces);
      this.#beat(stream);
    }
    if (weather === "cuts") {
      wire.end();
      this.streams.delete(stream);
    }
    const head = { "content-type": "text/event-stream; charset=utf-8" };
    return {
      status: 200,
      ok: true,
      headers: new Headers(head),
      body: { getReader: () => wire },
    } as unknown as Response;
  }

  #beat(stream: Stream): void {
    this.#clockTimers.setTimeout(() => {
      if (!stream.wire.isOpen) {
        this.streams.delete(stream);
        return;
      }
      const cursor = this.degraded ? undefined : this.cursor;
      stream.wire.send(`: keep-alive\n${event("heartbeat", { server_time: this.clock.now / 1_000, cursor }, cursor)}`);
      this.#beat(stream);
    }, stream.heartbeat);
  }

  #mumble(wire: Wire): void {
    this.#clockTimers.setTimeout(() => {
      wire.send(": just a moment\n");
      if (wire.isOpen) this.#mumble(wire);
    }, 1_000);
  }

  #tellAll(stream: Stream): void {
    const rows = this.states;
    const size = 2;
    const parts = Math.max(1, Math.ceil(rows.length / size));
    for (let part = 1; part <= parts; part++) {
      const requests = rows.slice((part - 1) * size, part * size);
      const data = { session_id: SESSION, epoch: this.epoch, mode: "full", requests, part, more: part < parts };
      stream.wire.send(event("snapshot", data, part < parts ? undefined : this.cursor), this.pieces);
    }
    const data = { cursor: this.cursor, server_time: this.clock.now / 1_000 };
    stream.wire.send(event("synced", data, this.cursor), this.pieces);
  }

  /** Where a client stands; undefined, if that is of no use. */
  #position(url: URL): number | undefined {
    const prefix = `1.${this.epoch}.`;
    const cursor = url.searchParams.get("cursor") ?? "";
    return cursor.startsWith(prefix) ? Number(cursor.slice(prefix.length)) : undefined;
  }

  #etag(): string {
    return JSON.stringify([this.epoch, ...this.states.map((state) => [state.request_id, state.version])]);
  }

  async #poll(url: URL, etag: string | null, signal: AbortSignal): Promise<Response> {
    const wait = etag ? Number(url.searchParams.get("wait")) : 0;
    const deadline = this.clock.now + wait * 1_000;
    while (etag === this.#etag() && this.clock.now < deadline) await this.#hold(deadline, signal);
    if (etag === this.#etag()) return answer(304);
    const since = this.#position(url);
    const rows = [...this.rows.values()];
    const requests = rows.filter((row) => since === undefined || row.at >= since).map((row) => row.state);
    const graves = since === undefined ? [] : [...this.#graves].filter(([, grave]) => grave.at >= since);
    const removed = graves.map(([request_id, { version }]) => ({ request_id, version }));
    const isOpen = rows.some((row) => !row.state.terminal);
    const poll = { interval_ms: isOpen ? 1_000 : 15_000, max_wait_s: this.maxWait };
    const mode = since === undefined ? "full" : "delta";
    const body = { session_id: SESSION, epoch: this.epoch, cursor: this.cursor, mode, requests, removed, poll };
    return answer(200, JSON.stringify(body), { etag: this.#etag() });
  }

  #hold(deadline: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const held = { answer: () => leave(resolve) };
      const timer = this.#clockTimers.setTimeout(() => {
        if (this.#held.has(held)) held.answer();
      }, deadline - this.clock.now);
      const leave = (how: () => void) => {
        this.#held.delete(held);
        this.#clockTimers.clearTimeout(timer);
        how();
      };
      this.#held.add(held);
      signal.addEventListener("abort", () => leave(() => reject(new DOMException("aborted", "AbortError"))));
    });
  }

  #release(): void {
    for (const held of [...this.#held]) held.answer();
  }
}

export function event(name: string, data: object | string, id?: string): string {
  const text = typeof data === "string" ? data : JSON.stringify(data);
  return `${id === undefined ? "" : `id: ${id}\n`}event: ${name}\ndata: ${text}\n\n`;
}

function answer(status: number, body: string | null = null, headers: Record<string, string> = {}): Response {
  return new Response([204, 304].includes(status) ? null : body, { status, headers });
}

const aborted = (signal: AbortSignal): Promise<never> =>
  new Promise((_, reject) => signal.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError"))));
