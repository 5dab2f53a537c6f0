/** The further entries of the package as they are installed: in plain Node, and in the eyes of a user's compiler. */

import { execFile } from "node:child_process";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { complaints } from "./support/compiler.js";

const run = promisify(execFile);
const root = new URL("..", import.meta.url).pathname;
let directory: string;
let dist: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "rowcast-"));
  const modules = join(directory, "node_modules");
  dist = join(modules, "rowcast", "dist");
  await mkdir(dist, { recursive: true });
  await run(join(root, "node_modules/.bin/tsdown"), ["--out-dir", dist], { cwd: root });
  await copyFile(join(root, "package.json"), join(modules, "rowcast", "package.json"));
  await mkdir(join(modules, "@types"));
  for (const name of ["react", "react-dom", "@types/react"])
    await symlink(join(root, "node_modules", name), join(modules, name));
  await writeFile(join(directory, "package.json"), '{"type": "module"}');
}, 120_000);

afterAll(() => rm(directory, { recursive: true }));

const textOf = (name: string) => readFile(join(dist, name), "utf-8");

test("every entry shares the one core", async () => {
  const names = (await readdir(dist)).filter((name) => name.endsWith(".js"));
  const texts = await Promise.all(names.map(textOf));
  const owners = names.filter((_, number) => texts[number]?.includes("function createRequestStream("));
  expect(owners.length).toBe(1);
  for (const entry of ["index.js", "tabs.js", "react.js"]) expect(await textOf(entry)).toContain(`"./${owners[0]}"`);
  expect(await textOf("next.js")).not.toMatch(/^import /m);
});

test("only that for React is marked for the browser, and only that knows React", async () => {
  for (const name of (await readdir(dist)).filter((name) => name.endsWith(".js"))) {
    const text = await textOf(name);
    expect(text.startsWith('"use client";'), name).toBe(name === "react.js");
    expect(/from "react"/.test(text), name).toBe(name === "react.js");
  }
});

test("nothing happens at import, where there is no window, and pages can be rendered", async () => {
  await writeFile(
    join(directory, "smoke.js"),
    `
    const names = ["fetch", "setTimeout", "BroadcastChannel", "EventSource"];
    const before = names.map((name) => [name, globalThis[name]]);
    for (const name of names)
      Object.defineProperty(globalThis, name, { configurable: true, get() { throw new Error(name + " at import"); } });
    const tabs = await import("rowcast/tabs");
    const next = await import("rowcast/next");
    const GET = next.serviceRoute({ service: "http://127.0.0.1:9" });
    for (const [name, value] of before) Object.defineProperty(globalThis, name, { configurable: true, value });
    const react = await import("rowcast/react");
    const { createElement } = await import("react");
    const { renderToString } = await import("react-dom/server");
    const List = () => react.useRequests({ sessionId: "s", initial: { requests: [{ request_id: "a" }] } }).length;
    const html = renderToString(createElement(List));
    const { status } = await GET(new Request("http://page.example/api/sse/s"));
    console.log(JSON.stringify([typeof tabs.createSharedStream, html, status, typeof window]));
    `,
  );
  const { stdout } = await run(process.execPath, ["smoke.js"], { cwd: directory, timeout: 15_000 });
  expect(JSON.parse(stdout)).toEqual(["function", "1", 502, "undefined"]);
}, 30_000);

test("a user's compiler knows their types, and refuses what would not work", async () => {
  const wrong = await complaints(
    directory,
    `
    import { createElement } from "react";
    import { createRequestStream, type RequestState, type RequestStream, type Status } from "rowcast";
    import { serviceRoute } from "rowcast/next";
    import { RequestsProvider, useRequest, useRequests, useStreamStatus } from "rowcast/react";
    import { createSharedStream, type SharedStreamOptions } from "rowcast/tabs";

    const options: SharedStreamOptions = { sessionId: "s", user: "u", share: "auto" };
    const live: RequestStream = createSharedStream(options);
    const status: Status = live.status;
    const position: string | undefined = live.getPosition()?.cursor;

    export function Page() {
      const rows: readonly RequestState[] = useRequests({ sessionId: "s", user: "u", create: createSharedStream,
        onUpdate: (row, { removed }) => console.log(row.status, removed) });
      useRequests({ sessionId: "s", create: createRequestStream });
      const row: RequestState | undefined = useRequest("id");
      const { status, reason } = useStreamStatus();
      const text: string = status + reason;
      // @ts-expect-error rows cannot be changed
      rows.push(row);
      // @ts-expect-error a session is needed
      useRequests({ user: "u" });
      return createElement(RequestsProvider, { sessionId: "s" }, text);
    }

    export const GET: (request: Request, context: { params: Promise<object> }) => Promise<Response> =
      serviceRoute({ service: "http://127.0.0.1:8000", path: (request) => request.url });

    // @ts-expect-error whose tabs these are has to be said
    createSharedStream({ sessionId: "s" });
    // @ts-expect-error there is no such choice
    createSharedStream({ ...options, share: "always" });
    // @ts-expect-error there is no default service
    serviceRoute({});
    export { status, position };
    `,
  );
  expect(wrong).toBe("");
}, 60_000);
