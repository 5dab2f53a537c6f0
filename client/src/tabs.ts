/** One stream for all tabs of a browser: one of them leads, has the stream, and tells the others what it applied. */

import { createRequestStream, safely } from "./client.js";
import type { Environment } from "./environment.js";
import type { Send } from "./exchange.js";
import { fetchStream, type OpenStream, type StreamListeners } from "./fetch-stream.js";
import type { Status } from "./machine.js";
import type { RequestStream, RequestStreamOptions } from "./options.js";
import { ask as fetchOnce } from "./poll.js";
import type { RequestState, Snapshot } from "./protocol.js";
import type { Rollout } from "./rollout.js";
import { createTimers } from "./timers.js";

export interface SharedStreamOptions extends RequestStreamOptions {
  /** Who is logged in: only tabs of the same user share. */
  readonly user: string;
  /** `auto`: only over HTTP/1.1, where a browser opens six connections to a server and no more. */
  readonly share?: "auto" | boolean;
  readonly environment?: TabsEnvironment;
}

/** What tabs need of a browser to share; where something is missing, each has its own stream. */
export interface TabsEnvironment extends Environment {
  readonly BroadcastChannel?: new (name: string) => Pick<BroadcastChannel, "postMessage" | "onmessage" | "close">;
  readonly navigator?: Environment["navigator"] & { readonly locks?: Pick<LockManager, "request"> };
  readonly performance?: Pick<Performance, "getEntriesByType">;
}

/** An event for a follower: its name, its data, and the cursor that it reaches. */
type Told = readonly [name: string, data: object, cursor?: string];

/** What goes over the channel. */
interface Word {
  readonly group: string;
  /** The leader that speaks; empty: a tab asks whether there is one. */
  readonly from: string;
  readonly events: readonly Told[];
  /** That of the rows, if these are all there are; else empty. */
  readonly epoch: string;
  readonly status: Status;
  readonly reason: string;
}

const REMOVED = "request_removed";
/** The heartbeat that a stream has as a rule. */
const TICK_MS = 5_000;
/** How long to wait for any answer of a leader before its place is taken; up to twice that, so that one tab is first. */
const ANSWER_MS = 1_500;
/** The same where there is an answer, and it does not fit. */
const DOUBT_MS = 300;

/**
 * Follow a session as `createRequestStream` does, with one connection for all tabs of the user.
 *
 * Whoever holds the lock leads. The others follow what it tells, with the store, the watchdog and the cursor that they
 * would have on a stream of their own: so any of them can take its place and go on from where it stood. A follower that
 * hears nothing for as long as from a dead stream, and gets no answer when it asks, takes the lock away. So does one
 * that knows of requests that the leader does not: which of the two is right, a stream from the server will tell.
 */
export function createSharedStream(options: SharedStreamOptions): RequestStream {
  const {
    environment = globalThis as TabsEnvironment,
    sessionId,
    user,
    baseUrl = "",
    share = "auto",
    transport = "auto",
    rollout,
    open = fetchStream,
  } = options;
  const { BroadcastChannel, navigator, Math } = environment;
  const locks = navigator?.locks;
  if (!share || !locks || !BroadcastChannel) return createRequestStream(options);

  // The user is part of it, so that nothing of one is ever told another; the number is that of the words' form.
  const group = JSON.stringify(["rowcast", 1, baseUrl, user, sessionId]);
  const me = `${Math.random()}`;
  const timers = createTimers(environment);
  const listeners = new Set<() => void>();

  let streams = true;
  let sharing = true;
  let channel: InstanceType<NonNullable<TabsEnvironment["BroadcastChannel"]>> | undefined;
  /** Aborted to let go of the lock, or to wait for it no longer. */
  let contention: AbortController | undefined;
  let leading = false;
  /** The stream that was opened last. */
  let current: StreamListeners | undefined;
  /** How the last stream began: how often it is to be heard of. */
  let beginning: object = {};

  // -- leading --

  /** What changed since it was told last, the newest of each request. */
  const changes = new Map<string, Told>();
  /** Whether the server has said where it stands since this tab leads; what it knew before may be old. */
  let sound = false;
  let polls = 0;
  /** The epoch of which the others have been told everything. */
  let toldEpoch = "";

  const say = (from: string, events: readonly Told[], epoch = "") => {
    const { status, reason } = live;
    channel?.postMessage({ group, from, events, epoch, status, reason });
  };

  /** Tell what is new, or only that there is a leader. */
  const tell = () => {
    if (!leading) return changes.clear();
    timers.set("tick", TICK_MS, tell);
    sound ||= live.status === "live" || live.counts.polls > polls;
    const position = sound && live.getPosition();
    // What it has is in pieces; they are kept until it is whole.
    if (!position) return say(me, []);
    const { epoch } = position;
    const isWhole = epoch !== toldEpoch;
    const events = [...changes.values()].filter(([name]) => !isWhole || name === REMOVED);
    changes.clear();
    toldEpoch = epoch;
    if (isWhole)
      events.push(
        ["connected", { ...beginning, epoch, mode: "resume" }],
        ["snapshot", { epoch, requests: live.getSnapshot(), part: 1 }],
      );
    say(me, [...events, ["synced", {}, position.cursor]], isWhole ? epoch : "");
  };

  // -- following --

  /** The last word of the leader that this tab follows. */
  let leader: Word | undefined;
  /** Whose word does not fit what is known here. */
  let doubted = "";

  const ask = () => {
    say("", []);
    takeOverIn(ANSWER_MS);
  };

  const takeOverIn = (ms: number) =>
    timers.set("take", ms * (1 + Math.random()), () => {
      leave();
      join(true);
    });

  const hear = ({ data: word }: { data: Word }) => {
    const { from, events, epoch } = word;
    if (!channel || word.group !== group) return;
    if (leading && !from) {
      toldEpoch = "";
      tell();
      // Somebody looks at a tab.
      if (live.status === "reconnecting") live.reconnect();
    }
    if (leading || !from || from === doubted || !current) return;
    timers.clear("take");
    const isLeader = from === leader?.from;
    if (isLeader) leader = word;
    if (epoch) follow(word, epoch, isLeader);
    else if (isLeader) feed(events);
    else {
      // It has nothing to tell yet.
      if (leader) ask();
      leader = undefined;
      current.asked(undefined);
    }
    show();
  };

  const feed = (events: readonly Told[]) => {
    current?.heard();
    for (const [name, data, id = ""] of events) current?.event({ name, data: JSON.stringify(data), id });
    // Of a removal that is older than what is known here, the server decides.
    const stays = ([name, data]: Told) => name === REMOVED && live.get((data as RequestState).request_id);
    if (events.some(stays)) current?.ended({ why: "unreachable" });
  };

  /** Take in everything that a leader has, unless something here contradicts it. */
  const follow = (word: Word, epoch: string, isLeader: boolean) => {
    const { from, events } = word;
    const [[, { requests }]] = events.slice(-2) as unknown as [[string, Snapshot]];
    let fits = isLeader;
    if ((live.getPosition()?.epoch ?? epoch) === epoch) {
      // It was told somebody else.
      if (isLeader) return feed(events.slice(-1));
      feed(events.slice(0, -3));
      const ids = new Set(requests.map((row) => row.request_id));
      fits = live.getSnapshot().every((row) => ids.has(row.request_id));
    }
    leader = fits ? word : undefined;
    if (fits) return feed(events.slice(-3));
    doubted = from;
    takeOverIn(DOUBT_MS);
  };

  // -- the lock --

  const join = (steal = false) => {
    if (channel || !sharing) return;
    contention = new AbortController();
    const { signal } = contention;
    const lead = () => {
      if (signal.aborted) return;
      leading = true;
      sound = false;
      polls = live.counts.polls;
      leader = undefined;
      // Who asked before there was a leader waits to be told everything.
      toldEpoch = "";
      timers.clear("take");
      restart();
      tell();
      return new Promise((resolve) => signal.addEventListener("abort", resolve));
    };
    // Another has taken it away; or there is none to be had in such a page.
    const lose = () => {
      if (signal.aborted) return;
      sharing = leading;
      leave();
      restart();
    };
    try {
      channel = new BroadcastChannel(group);
      channel.onmessage = hear;
      locks.request(group, steal ? { steal } : { signal }, lead).catch(lose);
    } catch {
      sharing = false;
    }
  };

  const leave = () => {
    contention?.abort();
    channel?.close();
    channel = undefined;
    leading = false;
    timers.clearAll();
  };

  /** Have another stream, of the kind that this tab is to have now. */
  const restart = () => {
    if (live.status === "polling") current?.ended({ why: "unreachable" });
    live.reconnect();
  };

  const openShared: OpenStream = (send, url, on) => {
    join();
    current = on;
    if (leading || !sharing) return streams ? open(send, url, on) : fetchStream(toPoll, url, on);
    leader = undefined;
    doubted = "";
    on.asked(undefined);
    ask();
    return () => {
      if (current === on) current = undefined;
    };
  };

  const choose: Rollout = async (...given) => {
    const wanted = { streams: transport !== "poll", polls: transport !== "sse" };
    const choice = (transport === "auto" && (await rollout?.(...given))) || wanted;
    streams = choice.streams;
    if (share !== true) void unshare(...given);
    return { ...choice, streams: true };
  };

  /** Go on alone if there are connections enough. To share until that is known does no harm. */
  const unshare = async (...[send, , signal]: Parameters<Rollout>) => {
    const url = `${baseUrl}/api/config`;
    await fetchOnce(send, url, "", signal);
    const entries = environment.performance?.getEntriesByType("resource") as PerformanceResourceTiming[] | undefined;
    if (entries?.some(({ name, nextHopProtocol }) => name.endsWith(url) && /^http.1/.test(nextHopProtocol))) return;
    sharing = false;
    if (!leading) restart();
    leave();
  };

  // -- what is shown --

  let said = "";

  const shown = () => (leader && live.status === "live" ? leader : live);

  const show = () => {
    const { status, reason } = shown();
    const before = said;
    said = `${status} ${reason}`;
    if (said === before) return;
    safely(options.onStatus, status, reason);
    notify();
  };

  const notify = () => {
    for (const listener of [...listeners]) safely(listener);
  };

  const live = createRequestStream({
    ...options,
    transport: "auto",
    rollout: choose,
    open: openShared,
    onUpdate(row, change) {
      changes.set(row.request_id, [change.removed ? REMOVED : "request_update", row]);
      options.onUpdate?.(row, change);
    },
    onStatus(status) {
      if (status === "suspended" || status === "stopped") leave();
      show();
    },
    onEvent(event) {
      if (event.name === "connected") beginning = JSON.parse(event.data);
      if (event.name === "heartbeat") tell();
      options.onEvent?.(event);
    },
  });
  live.subscribe(() => {
    tell();
    notify();
  });

  return {
    ...live,
    get status() {
      return shown().status;
    },
    get reason() {
      return shown().reason;
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

const toPoll: Send = async () => ({ why: "sent_to_poll" });
