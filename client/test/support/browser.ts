/** A browser in memory: tabs that can be closed, crash and freeze, with locks and channels between them. */

import type { Change, RequestStream, Status } from "../../src/index.js";
import type { RequestState } from "../../src/protocol.js";
import { createSharedStream, type SharedStreamOptions } from "../../src/tabs.js";
import { Clock } from "./clock.js";
import { SESSION, Service } from "./service.js";

interface Claim {
  readonly tab: Tab;
  readonly name: string;
  readonly signal: AbortSignal | undefined;
  grant(): void;
  reject(error: unknown): void;
}

/** https://w3c.github.io/web-locks/: exclusive locks, with `signal` and `steal`. */
class Locks {
  readonly held = new Map<string, Claim>();
  #queue: Claim[] = [];

  request(tab: Tab, name: string, options: LockOptions, hold: LockGrantedCallback<unknown>): Promise<unknown> {
    const { signal, steal } = options;
    if (signal && steal) return Promise.reject(new DOMException("signal and steal", "NotSupportedError"));
    return new Promise((resolve, reject) => {
      const claim: Claim = {
        tab,
        name,
        signal,
        grant: () =>
          tab.run(async () => {
            try {
              resolve(await hold({ name, mode: "exclusive" }));
            } catch (error) {
              reject(error);
            } finally {
              if (this.held.get(name) === claim) this.held.delete(name);
              this.#next(name);
            }
          }),
        reject: (error) => tab.run(() => reject(error)),
      };
      signal?.addEventListener("abort", () => {
        if (!this.#queue.includes(claim)) return;
        this.#queue = this.#queue.filter((other) => other !== claim);
        reject(signal.reason);
      });
      if (steal) {
        this.held.get(name)?.reject(new DOMException("stolen", "AbortError"));
        this.held.delete(name);
        this.#queue.unshift(claim);
      } else this.#queue.push(claim);
      this.#next(name);
    });
  }

  /** The tab is gone, and with it what it held and wanted. */
  drop(tab: Tab): void {
    this.#queue = this.#queue.filter((claim) => claim.tab !== tab);
    for (const [name, claim] of [...this.held])
      if (claim.tab === tab) {
        this.held.delete(name);
        this.#next(name);
      }
  }

  #next(name: string): void {
    const claim = this.#queue.find((other) => other.name === name);
    if (!claim || this.held.has(name)) return;
    this.#queue = this.#queue.filter((other) => other !== claim);
    this.held.set(name, claim);
    claim.grant();
  }
}

class Channel {
  onmessage: ((event: MessageEvent) => unknown) | null = null;
  #isOpen = true;

  constructor(
    readonly tab: Tab,
    readonly name: string,
  ) {
    tab.browser.channels.add(this);
  }

  postMessage(data: unknown): void {
    if (!this.#isOpen) throw new DOMException("closed", "InvalidStateError");
    this.tab.browser.said.push(data as Said);
    for (const other of this.tab.browser.channels)
      if (other !== this && other.name === this.name) {
        const copy = structuredClone(data);
        other.tab.run(() => other.#isOpen && other.onmessage?.({ data: copy } as MessageEvent));
      }
  }

  close(): void {
    this.#isOpen = false;
    this.tab.browser.channels.delete(this);
  }
}

/** What a test looks at of what tabs tell each other. */
export interface Said {
  /** Empty: it asks. */
  readonly from: string;
  readonly group: string;
}

/** One page; nothing of it runs while it is frozen, and never again once it is gone. */
export class Tab {
  readonly document = Object.assign(new EventTarget(), { hidden: false });
  readonly window = new EventTarget();
  readonly memory = new Map<string, string>();
  readonly statuses: Status[] = [];
  readonly updates: { row: RequestState; change: Change }[] = [];
  live!: RequestStream;
  isFrozen = false;
  isGone = false;
  readonly #end = new AbortController();
  #later: (() => void)[] = [];

  constructor(
    readonly browser: Browser,
    readonly number: number,
    readonly user: string,
  ) {}

  /** Run as a task of this tab: soon, or when it is thawed, or never. */
  run(task: () => unknown): void {
    this.browser.tasks.setTimeout(() => this.#now(task), 0);
  }

  #now(task: () => unknown): void {
    if (this.isGone) return;
    if (this.isFrozen) this.#later.push(() => void task());
    else void task();
  }

  async follow(options: Partial<SharedStreamOptions> = {}): Promise<RequestStream> {
    this.live = createSharedStream({
      sessionId: SESSION,
      user: this.user,
      share: true,
      environment: this.environment(),
      onUpdate: (row, change) => this.updates.push({ row, change }),
      onStatus: (status) => this.statuses.push(status),
      ...options,
    });
    await this.browser.clock.pass(0);
    return this.live;
  }

  environment(): NonNullable<SharedStreamOptions["environment"]> {
    const { browser } = this;
    const { clock } = browser;
    const timers = clock.timersOf(`tab ${this.number}`);
    const tab = this;
    return {
      Date: { now: () => clock.now },
      Math: { random: () => browser.dice() },
      setTimeout(run, ms) {
        const timer = { isCleared: false, id: 0 };
        timer.id = timers.setTimeout(() => tab.#now(() => timer.isCleared || run()), ms);
        return timer;
      },
      clearTimeout(timer: { isCleared: boolean; id: number } | undefined) {
        if (!timer) return;
        // It may have been due while the tab was frozen.
        timer.isCleared = true;
        timers.clearTimeout(timer.id);
      },
      fetch: (url, init) => this.#fetch(url, init),
      addEventListener: this.window.addEventListener.bind(this.window),
      document: this.document,
      sessionStorage: {
        getItem: (key) => this.memory.get(key) ?? null,
        setItem: (key, value) => void this.memory.set(key, value),
      },
      BroadcastChannel: class extends Channel {
        constructor(name: string) {
          super(tab, name);
        }
      },
      navigator: {
        locks: {
          request: (name: string, options: LockOptions, hold: LockGrantedCallback<unknown>) =>
            browser.locks.request(this, name, options, hold),
        } as Pick<LockManager, "request">,
      },
      performance: {
        getEntriesByType: () =>
          [
            { name: "http://service/other", nextHopProtocol: "http/1.0" },
            { name: "http://service/api/config", nextHopProtocol: browser.protocol },
          ] as unknown as PerformanceEntryList,
      },
    };
  }

  async #fetch(url: string, init: RequestInit): Promise<Response> {
    const signal = AbortSignal.any([init.signal as AbortSignal, this.#end.signal]);
    const response = await this.#awake(this.browser.serviceOf(this.user).fetch(url, { ...init, signal }));
    if (!url.includes("/api/sse/") || !response.ok) return response;
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    const { status, ok, headers } = response;
    const body = { getReader: () => ({ read: () => this.#awake(reader.read()) }) };
    return { status, ok, headers, body } as unknown as Response;
  }

  /** What comes of it, when this tab runs. */
  async #awake<Value>(coming: Promise<Value>): Promise<Value> {
    const asleep = () => {
      if (this.isGone) return new Promise<void>(() => {});
      if (this.isFrozen) return new Promise<void>((resolve) => this.#later.push(resolve));
      return undefined;
    };
    try {
      return await coming;
    } finally {
      await asleep();
    }
  }

  freeze(): void {
    this.isFrozen = true;
  }

  thaw(): void {
    this.isFrozen = false;
    const later = this.#later;
    this.#later = [];
    for (const task of later) this.run(task);
  }

  putAway(): void {
    if (!this.isFrozen) this.window.dispatchEvent(new Event("pagehide"));
  }

  bringBack(): void {
    if (!this.isFrozen) this.window.dispatchEvent(new Event("pageshow"));
  }

  /** Gone without a word, as with its process. */
  crash(): void {
    this.isGone = true;
    this.#end.abort();
    this.browser.locks.drop(this);
    for (const channel of this.browser.channels) if (channel.tab === this) channel.close();
    this.browser.tabs.delete(this);
  }

  close(): void {
    this.putAway();
    this.crash();
  }

  get shown(): RequestState[] {
    return [...this.live.getSnapshot()].sort((a, b) => a.request_id.localeCompare(b.request_id));
  }

  get isUpToDate(): boolean {
    const { states } = this.browser.serviceOf(this.user);
    return JSON.stringify(this.shown.map(words)) === JSON.stringify(states.map(words));
  }

  get timers(): number {
    return this.browser.clock.pending(`tab ${this.number}`);
  }
}

const words = (row: RequestState) => [row.request_id, row.version, row.status];

export class Browser {
  readonly clock = new Clock();
  readonly tasks = this.clock.timersOf("browser");
  readonly locks = new Locks();
  readonly channels = new Set<Channel>();
  readonly tabs = new Set<Tab>();
  protocol = "http/1.1";
  dice: () => number = Math.random;
  /** Everything that went over the channels. */
  readonly said: Said[] = [];
  #services = new Map<string, Service>();
  #opened = 0;

  /** Everything that one user may see. */
  serviceOf(user: string): Service {
    const service = this.#services.get(user) ?? new Service(this.clock);
    this.#services.set(user, service);
    return service;
  }

  get service(): Service {
    return this.serviceOf("ada");
  }

  open(user = "ada"): Tab {
    const tab = new Tab(this, ++this.#opened, user);
    this.tabs.add(tab);
    return tab;
  }

  async follow(options?: Partial<SharedStreamOptions>, user?: string): Promise<Tab> {
    const tab = this.open(user);
    await tab.follow(options);
    return tab;
  }

  leaderOf(user = "ada"): Tab | undefined {
    return [...this.locks.held].find(([name]) => name.includes(`"${user}"`))?.[1].tab;
  }

  get isUpToDate(): boolean {
    return [...this.tabs].every((tab) => tab.isUpToDate);
  }

  /** Let time pass until all tabs show what is; how long that took in ms. */
  async untilUpToDate(most: number): Promise<number> {
    const startedAt = this.clock.now;
    await this.clock.pass(most, () => this.isUpToDate);
    return this.clock.now - startedAt;
  }

  close(): void {
    for (const { live } of this.tabs) live?.stop();
  }
}
