/** The package as it is installed: built, packed, in a Node of its own, and in the eyes of a user's compiler. */

import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { complaints } from "./support/compiler.js";

const run = promisify(execFile);
const root = new URL("..", import.meta.url).pathname;
let directory: string;

beforeAll(async () => {
  await run("npm", ["run", "build"], { cwd: root });
  directory = await mkdtemp(join(tmpdir(), "rowcast-"));
  await mkdir(join(directory, "node_modules"));
  await symlink(root, join(directory, "node_modules", "rowcast"));
  await writeFile(join(directory, "package.json"), '{"type": "module"}');
}, 120_000);

afterAll(() => rm(directory, { recursive: true }));

test("nothing happens at import, and a session is followed in plain Node", async () => {
  await writeFile(
    join(directory, "smoke.js"),
    `
    import { createServer } from "node:http";
    const forbidden = (name) => () => { throw new Error(name + " at import"); };
    const { fetch, setTimeout } = globalThis;
    Object.assign(globalThis, { fetch: forbidden("fetch"), setTimeout: forbidden("setTimeout") });
    const { createRequestStream, connectSSE, pollForResponse } = await import("rowcast");
    Object.assign(globalThis, { fetch, setTimeout });

    const row = { request_id: "a", session_id: "s", updated_at: 1, has_response: false, has_error: false, sequence_number: 1 };
    const server = createServer((request, response) => {
      const say = (name, data, id) => response.write("id: " + id + "\\nevent: " + name + "\\ndata: " + JSON.stringify(data) + "\\n\\n");
      response.writeHead(200, { "content-type": "text/event-stream" });
      say("connected", { session_id: "s", epoch: "e", heartbeat_ms: 5000, mode: "snapshot" }, "");
      say("snapshot", { epoch: "e", requests: [{ ...row, status: "pending", terminal: false, version: 1 }], part: 1, more: false }, "c1");
      say("synced", { cursor: "c1" }, "c1");
      say("request_update", { ...row, status: "done 🎉", terminal: true, version: 2, cause: "live" }, "c2");
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    const live = createRequestStream({ sessionId: "s", baseUrl: "http://127.0.0.1:" + server.address().port });
    const done = await live.waitForDone("a");
    console.log(JSON.stringify([live.status, done.status, typeof connectSSE, typeof pollForResponse]));
    live.stop();
    server.closeAllConnections();
    server.close();
    `,
  );
  // It also ends by itself: nothing that was stopped keeps a process alive.
  const { stdout } = await run(process.execPath, ["smoke.js"], { cwd: directory, timeout: 15_000 });
  expect(JSON.parse(stdout)).toEqual(["live", "done 🎉", "function", "function"]);
}, 30_000);

test("a user's compiler knows its types, and refuses what would not work", async () => {
  const wrong = await complaints(
    directory,
    `
    import { byServer, byShare, connectSSE, createAuth, createBeacon, createMeasuredStream, createRequestStream, eventSource,
      followResponse, pollForResponse, type RequestState, type Status } from "rowcast";

    const auth = createAuth({ getToken: async (reason) => (reason === "start" ? "token" : null) });
    const live = createRequestStream({ sessionId: "s", auth, transport: "auto", rollout: byServer,
      onUpdate: (row, { removed, transport }) => console.log(row.status, removed, transport) });
    const rows: readonly RequestState[] = live.getSnapshot();
    const status: Status = live.status;
    const done: Promise<RequestState> = live.waitForDone("id", { signal: AbortSignal.timeout(1) });
    const leave: () => void = live.subscribe(() => {});
    createMeasuredStream({ sessionId: "s", open: eventSource({ ticket: true }), onMetric: createBeacon({ auth }) });
    createRequestStream({ sessionId: "s", rollout: byShare({ percent: 10, salt: "v1", user: "u" }) });
    const source: EventTarget = connectSSE("s", (update) => console.log(update.has_response), (error) => error.message);
    const { onStatus, waitForDone } = pollForResponse({ sessionId: "s", seqNum: 1 });
    onStatus((text: string) => text);
    const response: Promise<string | null> = waitForDone().then((detail) => detail.response);
    followResponse({ sessionId: "s", seqNum: 1, transport: "poll" });

    // @ts-expect-error a session is needed
    createRequestStream({});
    // @ts-expect-error there is no such transport
    createRequestStream({ sessionId: "s", transport: "websocket" });
    // @ts-expect-error rows cannot be changed
    rows[0].status = "done";
    // @ts-expect-error what is followed has no such thing
    live.publish();
    export { status, done, leave, source, response };
    `,
  );
  expect(wrong).toBe("");
}, 60_000);
