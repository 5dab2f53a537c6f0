/** Following one session: does what the table says, and tells it what happens. */

import type { Token } from "./auth.js";
import { createBackoff } from "./backoff.js";
import { type Connection, type Open, openConnection } from "./connection.js";
import { createCredentials } from "./credentials.js";
import type { Refusal, Send } from "./exchange.js";
import type { Follower, FollowerOptions } from "./following.js";
import type { Data } from "./knowledge.js";
import { type Action, type Happening, TABLE } from "./machine.js";
import { createMemory } from "./memory.js";
import { watchPage } from "./page.js";
import type { ServerEvent } from "./parser.js";
import { createPolicy, type Ended } from "./policy.js";
import { createPolling } from "./poll.js";
import { bounded } from "./protocol.js";
import { createTimers } from "./timers.js";
import { watchSleep } from "./watchdog.js";

export type { Choice, Follower } from "./following.js";

const GAP_MS = 2_000;
/** The shortest and the longest warning that a token runs out. */
const WARNING_MS = [1_000, 3_600_000] as const;

export function createFollower(options: FollowerOptions): Follower {
  const { environment, auth, send, knowledge } = options;
  const { now } = environment.Date;
  const { random } = environment.Math;
  const timers = createTimers(environment);
  const policy = createPolicy(now, random);
  const renewal = createBackoff(now, random);
  const credentials = createCredentials(auth, now);
  const memory = createMemory(environment);
  const context = { environment, knowledge, timers, policy, now };
  const lifetime = new AbortController();

  let wantsStreams = true;
  let current: Connection | undefined;
  let beside: Connection | undefined;
  /** Who told the last event. */
  let speaker: Connection | undefined;
  let openings = 0;
  let delay = 0;
  let floor = 0;
  let spent: Token;
  let isOnline = true;
  let epoch = "";
  /** Why it polls, while it does. */
  let cause = "";

  // -- the table --

  const emit = (happening: Happening) => {
    const step = TABLE[follower.status][happening];
    if (!step) return;
    const [next, ...todo] = step;
    follower.status = next;
    for (const action of todo) actions[action]();
    options.told();
  };

  const actions: Record<Action, () => void> = {
    open() {
      actions.close();
      current = connect();
    },
    openBeside() {
      if (wantsStreams) beside ??= connect();
    },
    promote() {
      if (speaker !== beside) return;
      current?.close();
      current = beside;
      beside = spent = undefined;
      timers.clear("beside");
    },
    close() {
      current?.close();
      beside?.close();
      current = beside = spent = undefined;
      timers.clear("retry", "beside");
    },
    wait: () => timers.set("retry", delay, () => emit("retry")),
    waitBeside() {
      const pause = current ? renewal.next() : policy.probeDelay();
      if (wantsStreams) timers.set("beside", Math.max(pause, delay), probe);
    },
    gap() {
      if (policy.mayPoll && !polling.isRunning() && !timers.has("gap")) timers.set("gap", GAP_MS, () => emit("gap"));
    },
    poll() {
      timers.clear("gap");
      if (policy.mayPoll || !wantsStreams) polling.start(floor);
      floor = 0;
    },
    hush() {
      timers.clear("gap");
      polling.stop();
    },
    rest() {
      actions.close();
      polling.stop();
      timers.clearAll();
    },
  };

  // A browser that is offline would only learn that again.
  const probe = () => (isOnline ? emit("beside") : actions.waitBeside());

  const begin = () => {
    watchSleep(timers, now, wake);
    emit(policy.streams ? "stream" : "poll");
  };

  const stop = (why: string) => {
    if (follower.status === "stopped") return;
    lifetime.abort();
    follower.reason = why;
    emit("stop");
  };

  /** Whatever was waited for: try now, unless a stream has been heard of late. */
  const wake = () => {
    policy.forgive();
    if (!current || current.isStale()) emit("wake");
  };

  const resume = () => {
    if (follower.status === "suspended") begin();
    wake();
  };

  const network = (isThere: boolean) => {
    isOnline = isThere;
    if (isThere) wake();
  };

  // -- streams, and polls --

  const connect = () => {
    const { cursor } = knowledge;
    const old = spent;
    const position = cursor && `&cursor=${encodeURIComponent(cursor)}`;
    const query = `?proto=1${position}${policy.heartbeat ? `&hb=${policy.heartbeat}` : ""}`;
    const renewing: Send = (url, headers, signal, asked, _, method) => send(url, headers, signal, asked, old, method);
    const open: Open = (on) => options.open(renewing, options.streamUrl + query, on);
    return openConnection(context, `watch${++openings}`, open, { told: heed, ended });
  };

  const heed = (connection: Connection, event: ServerEvent, data: Data | undefined) => {
    const { name } = event;
    speaker = connection;
    if (!data) {
      // Before `synced` there is nothing to keep it for; and the parts of a snapshot stand or fall together.
      if (knowledge.inARow > 1 || !connection.synced || name === "snapshot") connection.end({ why: "not_understood" });
      else emit("beside");
      return;
    }
    if (name === "connected") {
      credentials.accepted();
      emit(data["mode"] === "resume" ? name : "anew");
    } else if (name === "synced") {
      policy.synced();
      renewal.worked();
      memory.note(true);
      follower.reason = "";
      emit(name);
    } else if (name === "degraded") {
      follower.reason = name;
      emit(name);
    } else if (name === "token_expiring" && auth.renewable && !beside) {
      spent = connection.token;
      // Not at once: who warns as soon as a token is young would have it renewed without a pause.
      timers.set("beside", bounded(data["in_ms"], 0, ...WARNING_MS) * (0.25 + 0.25 * random()), probe);
    }
    options.heard(event);
    options.told();
  };

  const ended = (connection: Connection, ending: Ended) => {
    const { why, reason } = ending;
    knowledge.startOver();
    if (isOver(ending, connection.token)) return;
    if (connection === beside) {
      beside = undefined;
      delay = ending.floor;
      policy.missed(why);
      return emit("missed");
    }
    delay = policy.note(ending);
    follower.reason = reason;
    if (policy.streams) return emit("lost");
    cause = reason;
    floor = ending.floor && delay;
    if (why === "mute" || why === "broken" || why === "no_stream") memory.note(false);
    emit("fell");
  };

  /** Stop if no retry helps, and say whether that is so. */
  const isOver = ({ why, reason = why }: Refusal, token: Token) => {
    if (why === "over") stop(reason);
    else if (why === "unauthorized" && !credentials.recovers(token)) stop(why);
    return follower.status === "stopped";
  };

  const polling = createPolling(context, send, options.pollUrl, {
    isBesideStream: () => !!current?.connected,
    answered() {
      credentials.accepted();
      knowledge.store.counts.polls++;
      // What the stream beside says is of an epoch that is gone.
      if (epoch !== knowledge.store.epoch) beside?.end({ why: "not_understood" });
      epoch = knowledge.store.epoch;
      tellOfPolls(cause);
    },
    failed(refusal, token) {
      if (isOver(refusal, token)) return false;
      tellOfPolls(refusal.reason ?? refusal.why);
      return refusal.why === "unauthorized";
    },
  });

  const tellOfPolls = (reason: string) => {
    if (follower.status === "polling") follower.reason = reason;
    options.told();
  };

  const follower: Follower = {
    status: "idle",
    reason: "",
    signal: lifetime.signal,
    start({ streams, polls }) {
      wantsStreams = streams;
      policy.mayPoll = polls;
      policy.streams = streams && !(polls && memory.isAgainst());
      const suspend = () => emit("suspend");
      watchPage(environment, timers, lifetime.signal, { suspend, resume, network }, options.suspendWhenHidden);
      begin();
    },
    reconnect() {
      if (follower.status === "suspended") begin();
      policy.forgive();
      emit("wake");
    },
    stop: () => stop("stopped"),
  };
  return follower;
}
