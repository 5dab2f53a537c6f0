// The newest known state of every request of one session, and the one place that decides what is news.
// Versions order the states of one request, and only within an epoch: another epoch replaces everything.

export class RequestStore {
  epoch = null;
  states = new Map();
  #graves = new Map();      // request id -> version at which it was removed; an older state must not bring it back
  #snapshot = null;

  ids() {
    return new Set(this.states.keys());
  }

  /** Keep `state` if it is newer than what is known of its request; say whether it was news. */
  apply(state) {
    const known = this.states.get(state.request_id)?.version ?? this.#graves.get(state.request_id) ?? -1;
    if (!(state.version > known)) return false;
    this.#graves.delete(state.request_id);
    this.states.set(state.request_id, Object.freeze({ ...state }));
    return true;
  }

  remove(requestId, version) {
    const known = this.states.get(requestId);
    if (known && !(version > known.version)) return false;
    this.#graves.set(requestId, Math.max(version, this.#graves.get(requestId) ?? 0));
    return this.states.delete(requestId);
  }

  /** Forget a snapshot whose connection ended before its last part came. */
  dropSnapshot() {
    this.#snapshot = null;
  }

  /**
   * Take one part of a full snapshot. With the last part, requests that it does not name are gone, but only
   * those in `knownBefore` (known before the snapshot was asked for): the others are younger than it.
   */
  takeSnapshot({ epoch, requests, more }, knownBefore) {
    const changed = new Set();
    if (this.#snapshot?.epoch !== epoch) this.#snapshot = { epoch, named: new Set(), others: new Map() };
    const snapshot = this.#snapshot;
    const sameEpoch = this.epoch === null || this.epoch === epoch;
    if (this.epoch === null) this.epoch = epoch;
    for (const state of requests) {
      snapshot.named.add(state.request_id);
      if (!sameEpoch) snapshot.others.set(state.request_id, Object.freeze({ ...state }));
      else if (this.apply(state)) changed.add(state.request_id);
    }
    if (more) return changed;
    this.#snapshot = null;
    if (sameEpoch) {
      for (const requestId of knownBefore) {
        const known = this.states.get(requestId);
        if (!known || snapshot.named.has(requestId)) continue;
        this.#graves.set(requestId, known.version);
        this.states.delete(requestId);
        changed.add(requestId);
      }
      return changed;
    }
    for (const requestId of [...this.states.keys(), ...snapshot.others.keys()]) changed.add(requestId);
    this.epoch = epoch;
    this.states = snapshot.others;
    this.#graves.clear();
    return changed;
  }
}
