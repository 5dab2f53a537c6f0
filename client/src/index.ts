export { type Auth, type AuthOptions, createAuth, type Token, type TokenReason } from "./auth.js";
export { createRequestStream } from "./client.js";
export { connectSSE, RequestEventSource } from "./connect-sse.js";
export type { Environment } from "./environment.js";
export { type EventSourceOptions, eventSource } from "./event-source.js";
export { fetchStream, type OpenStream } from "./fetch-stream.js";
export type { Status } from "./machine.js";
export {
  type Beacon,
  type BeaconOptions,
  createBeacon,
  createMeasuredStream,
  type Metric,
  type MetricName,
} from "./metrics.js";
export type { RequestStream, RequestStreamOptions } from "./options.js";
export type { ServerEvent } from "./parser.js";
export { followResponse, pollForResponse, type ResponseOptions, type ResponseWatch } from "./poll-for-response.js";
export type { Change, Counts, RequestDetail, RequestState } from "./protocol.js";
export { bucketOf, byServer, byShare, isChosen, type Rollout } from "./rollout.js";
