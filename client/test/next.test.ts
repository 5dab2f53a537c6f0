/** The route handler, between a page and a real server. */

import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createRequestStream } from "../src/index.js";
import { serviceRoute } from "../src/next.js";

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

let server: Server;
let service: string;
let answer: Answer;
const asked: IncomingMessage[] = [];

beforeEach(async () => {
  asked.length = 0;
  server = createServer((request, response) => {
    asked.push(request);
    answer(request, response);
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  service = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});

afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

const PAGE = "https://app.example";
const ask = (path: string, init: RequestInit = {}) => serviceRoute({ service })(new Request(PAGE + path, init));

const text = (value: Uint8Array | undefined) => new TextDecoder().decode(value);

describe("a stream", () => {
  test("passes as it comes: each piece before the next one is written", async () => {
    let upstream: ServerResponse | undefined;
    answer = (_, response) => {
      response.writeHead(200, {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache, no-store, no-transform, private",
        "x-request-id": "r1",
      });
      response.write("event: connected\ndata: {}\n\n");
      upstream = response;
    };
    const response = await ask("/api/sse/s");
    expect(response.status).toBe(200);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache, no-store, no-transform, private",
      "x-accel-buffering": "no",
      "x-request-id": "r1",
    });
    for (const name of ["connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding"])
      expect(response.headers.has(name)).toBe(false);
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    expect(text((await reader.read()).value)).toBe("event: connected\ndata: {}\n\n");
    for (const piece of [": keep-alive\n", "id: 1\n", "data: ü\n\n"]) {
      upstream?.write(piece);
      expect(text((await reader.read()).value)).toBe(piece);
    }
    upstream?.end();
    expect((await reader.read()).done).toBe(true);
  });

  test("is closed at the service when the page goes", async () => {
    const closed = new Promise<void>((resolve) => {
      answer = (request, response) => {
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.write(": hello\n");
        request.on("close", resolve);
      };
    });
    const abort = new AbortController();
    const response = await ask("/api/sse/s", { signal: abort.signal });
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    await reader.read();
    const rest = expect(reader.read()).rejects.toThrow();
    abort.abort();
    await closed;
    await rest;
  });

  test("is closed at the service when nobody reads it any more", async () => {
    const closed = new Promise<void>((resolve) => {
      answer = (request, response) => {
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.write(": hello\n");
        request.on("close", resolve);
      };
    });
    const response = await ask("/api/sse/s");
    await response.body?.cancel();
    await closed;
  });

  test("that breaks off at the service breaks off at the page", async () => {
    answer = (_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write(": hello\n", () => response.destroy());
    };
    const response = await ask("/api/sse/s");
    await expect(response.text()).rejects.toThrow();
  });
});

test("what the service must know is told, and nothing else", async () => {
  answer = (_, response) => response.end();
  await ask("/api/sse/s?cursor=1.e.7&proto=1&hb=1000", {
    headers: {
      accept: "text/event-stream",
      authorization: "Bearer t",
      cookie: "session=1; theme=dark",
      "last-event-id": "1.e.9",
      "if-none-match": '"x"',
      origin: "https://elsewhere.example",
      "sec-fetch-site": "cross-site",
      "x-forwarded-for": "10.0.0.1",
      "x-middleware-subrequest": "1",
    },
  });
  const [request] = asked;
  expect(request?.method).toBe("GET");
  expect(request?.url).toBe("/api/sse/s?cursor=1.e.7&proto=1&hb=1000");
  expect(request?.headers).toMatchObject({
    accept: "text/event-stream",
    authorization: "Bearer t",
    cookie: "session=1; theme=dark",
    "last-event-id": "1.e.9",
    "if-none-match": '"x"',
    origin: "https://elsewhere.example",
    "sec-fetch-site": "cross-site",
    "accept-encoding": "identity",
  });
  expect(request?.headers["x-forwarded-for"]).toBeUndefined();
  expect(request?.headers["x-middleware-subrequest"]).toBeUndefined();
});

describe("an answer", () => {
  test.each([
    [404, {}],
    [401, { "www-authenticate": "Bearer" }],
    [429, { "retry-after": "7" }],
    [503, { "retry-after": "3" }],
  ])("of %i passes with its body and headers", async (status, headers) => {
    answer = (_, response) => response.writeHead(status, headers).end('{"code":"x"}');
    const response = await ask("/api/sse/s");
    expect(response.status).toBe(status);
    expect(Object.fromEntries(response.headers)).toMatchObject(headers);
    expect(await response.json()).toEqual({ code: "x" });
  });

  test.each([204, 304])("of %i has no body", async (status) => {
    answer = (_, response) => response.writeHead(status, { etag: '"x"' }).end();
    const response = await ask("/api/session/s/requests");
    expect([response.status, response.body, response.headers.get("etag")]).toEqual([status, null, '"x"']);
  });

  test("that sets cookies sets each of them", async () => {
    answer = (_, response) => response.writeHead(200, { "set-cookie": ["a=1", "b=2"] }).end("{}");
    const response = await ask("/api/config");
    expect(response.headers.getSetCookie()).toEqual(["a=1", "b=2"]);
    expect(response.headers.get("cache-control")).toBe("no-cache, no-transform");
  });

  test("that is a redirect is left to the page", async () => {
    answer = (_, response) => response.writeHead(307, { location: "https://elsewhere.example/" }).end();
    const response = await ask("/api/sse/s");
    expect([response.status, response.headers.get("location")]).toEqual([307, "https://elsewhere.example/"]);
    expect(asked.length).toBe(1);
  });

  test("that never comes is a 502, which a client takes for an outage", async () => {
    const { port } = server.address() as AddressInfo;
    await new Promise((resolve) => server.close(resolve));
    const response = await serviceRoute({ service: `http://127.0.0.1:${port}` })(new Request(`${PAGE}/api/sse/s`));
    expect([response.status, response.headers.get("retry-after")]).toEqual([502, "1"]);
    expect(await response.json()).toMatchObject({ code: "unreachable" });
    server = createServer().listen(0);
  });
});

test.each(["//evil.example/x", "/\\evil.example/x", "/../../x", "/%2e%2e/x"])(
  "no path leads to another host: %s",
  async (path) => {
    answer = (_, response) => response.end();
    await serviceRoute({ service: `${service}/base/`, path: () => path })(new Request(`${PAGE}/`));
    expect(asked.length).toBe(1);
    expect(asked[0]?.headers.host).toBe(new URL(service).host);
  },
);

test("a client follows a session through it", async () => {
  const row = { session_id: "s", updated_at: 1, has_response: false, has_error: false, sequence_number: 1 };
  answer = (_, response) => {
    const say = (name: string, data: object, id = "") =>
      response.write(`${id && `id: ${id}\n`}event: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
    response.writeHead(200, { "content-type": "text/event-stream" });
    say("connected", { session_id: "s", epoch: "e", heartbeat_ms: 5_000, mode: "snapshot" });
    const requests = [{ ...row, request_id: "a", status: "pending", terminal: false, version: 1 }];
    say("snapshot", { epoch: "e", requests, part: 1, more: false }, "c1");
    say("synced", { cursor: "c1" }, "c1");
    say("request_update", { ...row, request_id: "a", status: "done", terminal: true, version: 2 }, "c2");
  };
  const GET = serviceRoute({ service });
  const environment = Object.assign(Object.create(globalThis), {
    fetch: (url: string, init: RequestInit) => GET(new Request(PAGE + url, init)),
  });
  const live = createRequestStream({ sessionId: "s", environment });
  expect((await live.waitForDone("a")).status).toBe("done");
  live.stop();
});
