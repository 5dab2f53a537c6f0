/** Against the real service: a database, a worker, sockets. */

import { afterAll, afterEach, beforeAll, expect, test, vi } from "vitest";
import {
  byServer,
  connectSSE,
  createRequestStream,
  followResponse,
  pollForResponse,
  type RequestState,
  type RequestStream,
  type RequestStreamOptions,
} from "../src/index.js";
import { Demo, type Guest } from "./support/demo.js";
import { fault } from "./support/fault.js";

const demo = new Demo();
let guest: Guest;
const open: RequestStream[] = [];

beforeAll(async () => {
  await demo.start();
  guest = await demo.guest();
}, 60_000);

afterEach(() => {
  for (const live of open.splice(0)) live.stop();
});

afterAll(() => demo.remove(), 30_000);

const access = () => ({ baseUrl: demo.url, auth: { getToken: () => guest.token } });
const soon = (fact: () => void | Promise<void>) => vi.waitFor(fact, { timeout: 15_000, interval: 20 });

function follow(sessionId: string, options: Partial<RequestStreamOptions> = {}): RequestStream {
  const live = createRequestStream({ sessionId, ...access(), ...options });
  open.push(live);
  return live;
}

/** What the service itself says, as a list. */
async function told(session: string): Promise<RequestState[]> {
  const { requests } = await guest.call("GET", `/api/session/${session}/requests`);
  return requests.sort((a: RequestState, b: RequestState) => a.sequence_number - b.sequence_number);
}

test.each(["sse", "poll", "auto"] as const)(
  "a request is seen from question to answer, and to its end (%s)",
  async (transport) => {
    const session = await guest.session();
    const before = await guest.ask(session, "sales_by_month");
    const updates: RequestState[] = [];
    const live = follow(session, { transport, rollout: byServer, onUpdate: (row) => updates.push(row) });
    await live.waitForDone(before.request_id);
    const asked = await guest.ask(session, "sales_by_month year=2025");
    const done = await live.waitForDone(asked.request_id);
    expect(done).toMatchObject({ status: "done", has_response: true, sequence_number: 2 });
    expect(live.status).toBe(transport === "poll" ? "polling" : "live");
    expect(live.getSnapshot()).toEqual(await told(session));
    const versions = updates.filter(({ request_id }) => request_id === asked.request_id).map(({ version }) => version);
    expect(versions).toEqual([...new Set(versions)].sort((a, b) => a - b));

    await guest.call("DELETE", `/api/request/${before.request_id}`);
    await soon(() => expect(live.getSnapshot().length).toBe(1));
    await guest.call("DELETE", `/api/session/${session}`);
    await soon(() => expect(live.status).toBe("stopped"));
    expect(live.counts.skipped).toBe(0);
  },
);

test(`${fault(23)}a session of somebody else is not there`, async () => {
  const session = await (await demo.guest()).session();
  for (const transport of ["sse", "poll"] as const) {
    const live = follow(session, { transport });
    await soon(() => expect([live.status, live.reason]).toEqual(["stopped", "http_404"]));
  }
});

test.each([pollForResponse, followResponse])("a response is fetched when it is there", async (watch) => {
  const session = await guest.session();
  const { sequence_number: seqNum } = await guest.ask(session, "sales_by_month");
  const { onStatus, waitForDone } = watch({ sessionId: session, seqNum, ...access() });
  const statuses: string[] = [];
  onStatus((status) => statuses.push(status));
  const detail = await waitForDone();
  expect(JSON.parse(detail.response ?? "")).toBeTruthy();
  expect(statuses.at(-1)).toBe("done");

  const { sequence_number: broken } = await guest.ask(session, "broken");
  const failed = await watch({ sessionId: session, seqNum: broken, ...access() }).waitForDone();
  expect(failed).toMatchObject({ status: "error", response: null });
  expect(failed.error).toBeTruthy();
});

test("a page that was written for EventSource is told what happens", async () => {
  const session = await guest.session();
  await guest.ask(session, "sales_by_month");
  const updates: RequestState[] = [];
  const source = connectSSE(session, (update) => updates.push(update), undefined, access());
  await new Promise((resolve) => source.addEventListener("synced", resolve, { once: true }));
  const { request_id } = await guest.ask(session, "sales_by_month");
  await soon(() => expect(updates.at(-1)).toMatchObject({ request_id, status: "done" }));
  source.close();
});

test(`${fault(2)}${fault(1)}a server that is stopped or killed and comes back finds its clients where they were`, async () => {
  const session = await guest.session();
  await guest.ask(session, "sales_by_month");
  const statuses: string[] = [];
  const streaming = follow(session, { onStatus: (status) => statuses.push(status) });
  const polling = follow(session, { transport: "poll" });
  await soon(() => expect(streaming.status).toBe("live"));
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    await demo.stop(signal);
    await soon(() => expect(streaming.status).not.toBe("live"));
    await demo.start();
    const { request_id } = await guest.ask(session, "sales_by_month");
    for (const live of [streaming, polling])
      expect(await live.waitForDone(request_id)).toMatchObject({ status: "done" });
    await soon(async () => expect(streaming.getSnapshot()).toEqual(await told(session)));
    await soon(() => expect(streaming.status).toBe("live"));
  }
  expect(statuses).toContain("reconnecting");
  expect(polling.getSnapshot()).toEqual(await told(session));
}, 90_000);
