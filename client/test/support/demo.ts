/** The real service, with a database and a worker, as `rowcast demo` runs it. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROWCAST = fileURLToPath(new URL("../../../.venv/bin/rowcast", import.meta.url));

export class Demo {
  url = "";
  #process: ChildProcess | undefined;
  #data: string | undefined;

  /** Start it, on the same port and with the same data as before. */
  async start(): Promise<void> {
    this.#data ??= await mkdtemp(join(tmpdir(), "rowcast-demo-"));
    const environment = Object.entries(process.env).filter(([name]) => !name.startsWith("ROWCAST_"));
    const port = this.url ? new URL(this.url).port : "0";
    const started = spawn(ROWCAST, ["demo", "--port", port, "--data", this.#data], {
      env: { ...Object.fromEntries(environment), ROWCAST_HEARTBEAT_MS: "1000" },
      stdio: ["ignore", "pipe", "inherit"],
    });
    this.#process = started;
    let output = "";
    for await (const piece of started.stdout.setEncoding("utf-8")) {
      output += piece;
      const [, url] = /is ready: (\S+)/.exec(output) ?? [];
      if (url) {
        this.url = url;
        return;
      }
    }
    throw new Error(`the demo did not start (is ${ROWCAST} installed?): ${output}`);
  }

  /** End it and wait until it has gone. */
  async stop(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<void> {
    const ending = this.#process;
    if (!ending || ending.exitCode !== null || ending.signalCode !== null) return;
    const ended = once(ending, "exit");
    ending.kill(signal);
    await ended;
  }

  async remove(): Promise<void> {
    await this.stop();
    if (this.#data) await rm(this.#data, { recursive: true, force: true });
  }

  /** Make a guest, and return a way to call the service as that guest. */
  async guest(): Promise<Guest> {
    const { token } = await new Guest(this.url).call("POST", "/api/auth/guest");
    return new Guest(this.url, token);
  }
}

export class Guest {
  constructor(
    readonly url: string,
    readonly token = "",
  ) {}

  // biome-ignore lint/suspicious/noExplicitAny: answers of all kinds, looked into by the tests.
  async call(method: string, path: string, body?: object): Promise<any> {
    const response = await fetch(this.url + path, {
      method,
      headers: { "Content-Type": "application/json", ...(this.token && { Authorization: `Bearer ${this.token}` }) },
      ...(body && { body: JSON.stringify(body) }),
    });
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return response.status === 204 ? undefined : response.json();
  }

  async session(): Promise<string> {
    return (await this.call("POST", "/api/session", {})).session_id;
  }

  async ask(session: string, request: string): Promise<{ request_id: string; sequence_number: number }> {
    return this.call("POST", `/api/request/${session}`, { request });
  }
}
