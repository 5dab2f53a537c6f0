/** A page in memory: everything that a client needs of a browser, in the hands of the test. */

import { createRequestStream, type RequestStream, type RequestStreamOptions, type Status } from "../../src/index.js";
import type { Change, RequestState } from "../../src/protocol.js";
import { Clock } from "./clock.js";
import { SESSION, Service } from "./service.js";

export class Page {
  readonly document = Object.assign(new EventTarget(), { hidden: false });
  readonly window = new EventTarget();
  readonly memory = new Map<string, string>();
  readonly statuses: Status[] = [];
  readonly updates: { row: RequestState; change: Change }[] = [];
  dice: () => number = () => 0.5;
  live!: RequestStream;

  constructor(
    readonly clock = new Clock(),
    readonly service = new Service(clock),
  ) {}

  environment() {
    return {
      Date: { now: () => this.clock.now },
      Math: { random: () => this.dice() },
      ...this.clock.timersOf("client"),
      fetch: this.service.fetch,
      addEventListener: this.window.addEventListener.bind(this.window),
      document: this.document,
      sessionStorage: {
        getItem: (key: string) => this.memory.get(key) ?? null,
        setItem: (key: string, value: string) => void this.memory.set(key, value),
      },
    };
  }

  /** Follow the session, and let what follows from that happen. */
  async follow(options: Partial<RequestStreamOptions> = {}): Promise<RequestStream> {
    this.live = createRequestStream({
      sessionId: SESSION,
      environment: this.environment(),
      onUpdate: (row, change) => this.updates.push({ row, change }),
      onStatus: (status) => this.statuses.push(status),
      ...options,
    });
    await this.clock.pass(0);
    return this.live;
  }

  hide(): void {
    this.document.hidden = true;
    this.document.dispatchEvent(new Event("visibilitychange"));
  }

  show(): void {
    this.document.hidden = false;
    this.document.dispatchEvent(new Event("visibilitychange"));
  }

  tell(type: "online" | "offline" | "pagehide" | "pageshow"): void {
    this.window.dispatchEvent(new Event(type));
  }

  tellDocument(type: "freeze" | "resume"): void {
    this.document.dispatchEvent(new Event(type));
  }

  /** What the client shows, in the service's order. */
  get shown(): RequestState[] {
    return [...this.live.getSnapshot()].sort((a, b) => a.request_id.localeCompare(b.request_id));
  }

  get isUpToDate(): boolean {
    return JSON.stringify(this.shown.map(words)) === JSON.stringify(this.service.states.map(words));
  }

  /** Let time pass until the client shows what is; how long that took in ms. */
  async untilUpToDate(most: number): Promise<number> {
    const startedAt = this.clock.now;
    await this.clock.pass(most, () => this.isUpToDate);
    return this.clock.now - startedAt;
  }
}

const words = (row: RequestState) => [row.request_id, row.version, row.status];
