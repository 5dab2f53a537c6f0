/** The law of the client as one table: what follows from what. It does nothing by itself. */

/** What the client is doing; the public status. */
export type Status =
  | "idle"
  | "connecting" // a stream was asked for
  | "catching_up" // it tells what was missed, or cannot hear its database
  | "live"
  | "reconnecting" // it ended; another is tried in a while
  | "polling" // instead of a stream
  | "suspended" // nobody is looking
  | "stopped";

/** What can happen. */
export type Happening =
  | "stream" // begin with a stream
  | "poll" // begin with polling
  | "connected"
  | "anew" // a stream that tells everything anew is connected, beside polls or another stream
  | "synced"
  | "degraded"
  | "lost" // the stream ended; another may do better
  | "fell" // the stream ended; streams do not get through
  | "missed" // the stream beside ended
  | "retry" // it is time for the next stream
  | "gap" // it has been long enough without news
  | "beside" // it is time for a stream beside
  | "wake" // whatever was waited for, or was silent: try now
  | "suspend"
  | "stop";

/** What is to be done about it. */
export type Action =
  | "open" // a stream, in place of any that is open
  | "openBeside" // a stream that takes over once it is synced
  | "promote" // it takes over
  | "close" // all streams
  | "wait" // for the next try
  | "waitBeside" // for the next try beside
  | "gap" // wait a little, then poll
  | "poll"
  | "hush" // stop polling
  | "rest"; // let go of everything

type Step = readonly [next: Status, ...actions: Action[]];
type Row = { readonly [happening in Happening]?: Step };

const leaving: Row = {
  suspend: ["suspended", "rest"],
  stop: ["stopped", "rest"],
};
const streaming: Row = {
  ...leaving,
  lost: ["reconnecting", "close", "wait", "gap"],
  fell: ["polling", "close", "poll", "waitBeside"],
  wake: ["connecting", "open", "gap"],
};
const connected: Row = {
  ...streaming,
  synced: ["live", "promote", "hush"],
  degraded: ["catching_up", "poll"],
  anew: ["catching_up", "promote", "gap"],
};
const beginning: Row = {
  ...leaving,
  stream: ["connecting", "open", "gap"],
  poll: ["polling", "poll", "waitBeside"],
};

/** Status → happening → next status and what to do. What is not named changes nothing. */
export const TABLE: { readonly [status in Status]: Row } = {
  idle: beginning,
  connecting: {
    ...streaming,
    connected: ["catching_up", "gap"],
    anew: ["catching_up", "gap"],
    gap: ["connecting", "poll"],
  },
  catching_up: {
    ...connected,
    gap: ["catching_up", "poll"],
    beside: ["catching_up", "openBeside"],
    missed: ["catching_up", "waitBeside"],
  },
  live: {
    ...connected,
    beside: ["live", "openBeside"],
    missed: ["live", "waitBeside"],
  },
  reconnecting: {
    ...leaving,
    retry: ["connecting", "open"],
    gap: ["reconnecting", "poll"],
    wake: ["connecting", "open", "gap"],
  },
  polling: {
    ...leaving,
    beside: ["polling", "openBeside"],
    missed: ["polling", "waitBeside"],
    anew: ["catching_up", "promote", "gap"],
    synced: ["live", "promote", "hush"],
    wake: ["polling", "hush", "poll", "openBeside"],
  },
  suspended: beginning,
  stopped: {},
};
