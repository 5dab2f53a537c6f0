/** A clock that stands still until it is told, and the timers of whoever lives by it. */

/** Let everything happen that waits for nothing but its turn. */
export const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

export class Clock {
  now = 1_700_000_000_000;
  #serial = 0;
  #timers = new Map<number, { at: number; run: () => void; owner: string }>();

  /** The timers of one owner, for an environment. */
  timersOf(owner: string) {
    return {
      setTimeout: (run: () => void, ms: number): number => {
        this.#timers.set(++this.#serial, { at: this.now + Math.max(0, ms), run, owner });
        return this.#serial;
      },
      clearTimeout: (handle: number | undefined): void => {
        this.#timers.delete(handle ?? 0);
      },
    };
  }

  pending(owner: string): number {
    return [...this.#timers.values()].filter((timer) => timer.owner === owner).length;
  }

  /** Let time pass: every timer runs at its time, and what follows from it before the next one. */
  async pass(ms: number, until: () => boolean = () => false): Promise<void> {
    const end = this.now + ms;
    await settle();
    while (!until()) {
      const [first] = [...this.#timers].sort(([a, one], [b, other]) => one.at - other.at || a - b);
      if (!first || first[1].at > end) {
        this.now = end;
        break;
      }
      await this.#fire(first[0]);
    }
    await settle();
  }

  /** Let time pass that no timer notices, as when the machine sleeps; timers come late by that. */
  jump(ms: number): void {
    this.now += ms;
    for (const timer of this.#timers.values()) timer.at += ms;
  }

  async #fire(id: number): Promise<void> {
    const timer = this.#timers.get(id);
    if (!timer) return;
    this.#timers.delete(id);
    this.now = Math.max(this.now, timer.at);
    timer.run();
    await settle();
  }
}
