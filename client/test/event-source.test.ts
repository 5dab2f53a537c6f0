/** Streams over the browser's own EventSource. */

import { expect, test, vi } from "vitest";
import { eventSource } from "../src/index.js";
import { fault } from "./support/fault.js";
import { Page } from "./support/page.js";
import { event, SESSION } from "./support/service.js";

/** An EventSource that the test drives. */
class Source extends EventTarget {
  static opened: Source[] = [];
  static readonly CLOSED = 2;
  readyState = 0;
  onopen: (() => void) | null = null;

  constructor(
    readonly url: string,
    readonly init: EventSourceInit,
  ) {
    super();
    Source.opened.push(this);
  }

  close(): void {
    this.readyState = 2;
  }

  open(): void {
    this.readyState = 1;
    this.onopen?.();
  }

  say(type: string, data: object, lastEventId = ""): void {
    this.dispatchEvent(new MessageEvent(type, { data: JSON.stringify(data), lastEventId }));
  }

  fail(readyState: number): void {
    this.readyState = readyState;
    this.dispatchEvent(new Event("error"));
  }

  hello(heartbeat_ms = 5_000): void {
    this.open();
    this.say("connected", { session_id: SESSION, epoch: "epoch-1", heartbeat_ms, mode: "resume" });
    this.say("synced", { cursor: "1.epoch-1.5" }, "1.epoch-1.5");
  }
}

async function followed(ticket: boolean): Promise<Page> {
  Source.opened = [];
  const page = new Page();
  page.service.change("a");
  const { fetch } = page.service;
  let tickets = 0;
  const ticketed = async (url: string, init: RequestInit) => {
    if (!url.endsWith("/ticket")) return fetch(url, init);
    expect(init.method).toBe("POST");
    expect(new Headers(init.headers).get("authorization")).toBe("Bearer token");
    return new Response(JSON.stringify({ ticket: `ticket ${++tickets}` }), { status: 201 });
  };
  await page.follow({
    open: eventSource({ ticket, EventSource: Source as unknown as typeof EventSource }),
    environment: { ...page.environment(), fetch: ticketed },
    ...(ticket && { auth: { getToken: () => "token" } }),
  });
  await opened(1);
  return page;
}

const opened = (number: number) => vi.waitFor(() => expect(Source.opened.length).toBe(number));

const last = () => Source.opened.at(-1) as Source;

test("it follows, from the cursor, and keeps a stream alive by its heartbeats alone", async () => {
  const page = await followed(false);
  expect(last().url).toBe(`/api/sse/${SESSION}?proto=1`);
  expect(last().init).toEqual({ withCredentials: true });
  last().hello();
  expect(page.live.status).toBe("live");
  last().say("request_update", { ...page.service.change("a"), cause: "live" }, "1.epoch-1.6");
  expect(page.isUpToDate).toBe(true);
  for (let beat = 0; beat < 10; beat++) {
    await page.clock.pass(5_000);
    last().say("heartbeat", { cursor: "1.epoch-1.7" }, "1.epoch-1.7");
  }
  expect(Source.opened.length).toBe(1);
  await page.clock.pass(16_000);
  expect(Source.opened.length).toBe(2);
  expect(last().url).toContain("&cursor=1.epoch-1.7");
  page.live.stop();
  expect(Source.opened.every(({ readyState }) => readyState === 2)).toBe(true);
});

test("every connection has a ticket of its own, and no token is in a URL", async () => {
  const page = await followed(true);
  expect(last().url).toContain("&ticket=ticket%201");
  expect(last().init).toEqual({ withCredentials: false });
  last().hello();
  last().fail(0);
  expect(page.live.status).toBe("reconnecting");
  await page.clock.pass(1_000);
  await opened(2);
  expect(last().url).toContain("&ticket=ticket%202");
  expect(Source.opened[0]?.readyState).toBe(2);
  page.live.stop();
});

test.each([0, 2])(
  `${fault(1)}it opens another itself, whether the browser gives up or would retry (%i)`,
  async (readyState) => {
    const page = await followed(false);
    last().hello();
    last().fail(readyState);
    expect(last().readyState).toBe(2);
    await page.clock.pass(1_000);
    expect(Source.opened.length).toBe(2);
    page.live.stop();
  },
);

test("the server's own error is told apart from the browser's", async () => {
  const page = await followed(false);
  last().hello();
  last().say("error", { error: "Internal server error", code: "internal", retryable: false });
  await page.clock.pass(0);
  expect([page.live.status, page.live.reason]).toEqual(["polling", "internal"]);
  page.live.stop();
});

test("a refusal, which it cannot see, is found by a poll", async () => {
  const page = await followed(false);
  page.service.exists = false;
  last().fail(2);
  expect(page.live.status).toBe("reconnecting");
  await page.clock.pass(3_000);
  expect([page.live.status, page.live.reason]).toEqual(["stopped", "http_404"]);
});

test("where there is no EventSource, it polls", async () => {
  const page = new Page();
  page.service.change("a");
  await page.follow({ open: eventSource({ EventSource: undefined as never }) });
  await page.clock.pass(0);
  expect(page.live.status).toBe("polling");
  expect(page.isUpToDate).toBe(true);
  page.live.stop();
});

test("what the fake service writes is what the tests here say", () => {
  expect(event("synced", { cursor: "c" }, "c")).toBe('id: c\nevent: synced\ndata: {"cursor":"c"}\n\n');
});
