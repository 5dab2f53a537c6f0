// @vitest-environment happy-dom
/** Components that follow sessions: what they show, what they are told, and how many streams that takes. */

import { act, createElement, type FunctionComponent, type ReactNode, StrictMode } from "react";
import { createRoot, hydrateRoot, type Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, describe, expect, test, vi } from "vitest";
import { createRequestStream } from "../src/index.js";
import type { RequestState } from "../src/protocol.js";
import { RequestsProvider, type UseRequestsOptions, useRequest, useRequests, useStreamStatus } from "../src/react.js";
import { createSharedStream } from "../src/tabs.js";
import { Browser } from "./support/browser.js";
import { fault } from "./support/fault.js";
import { Page } from "./support/page.js";
import { event, SESSION } from "./support/service.js";

Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: true });

const GRACE_MS = 250;
const roots = new Set<Root>();
const pages = new Set<Page>();

/** A page whose timers the test has, and the options for its session. */
function pageOf(session = SESSION): { page: Page; options: UseRequestsOptions } {
  const page = new Page();
  pages.add(page);
  return { page, options: { sessionId: session, environment: page.environment() } };
}

function mount(): { render(node: ReactNode): Promise<void>; readonly text: string; unmount(): Promise<void> } {
  const container = document.body.appendChild(document.createElement("div"));
  const root = createRoot(container);
  roots.add(root);
  return {
    render: async (node) => {
      await act(async () => root.render(node));
      await pass(0);
    },
    get text() {
      return container.textContent ?? "";
    },
    unmount: async () => {
      roots.delete(root);
      await act(async () => root.unmount());
    },
  };
}

const pass = (ms: number) =>
  act(async () => {
    for (const { clock } of pages) await clock.pass(ms);
  });

afterEach(async () => {
  for (const root of roots) await act(async () => root.unmount());
  roots.clear();
  await pass(GRACE_MS);
  for (const { service, clock } of pages) {
    expect(service.liveStreams).toEqual([]);
    expect(clock.pending("client")).toBe(0);
  }
  pages.clear();
});

const words = (rows: readonly { request_id: string; status: string }[]) =>
  rows.map(({ request_id, status }) => `${request_id} ${status}`).join(", ");

interface Given {
  readonly options: UseRequestsOptions;
  readonly seen: string[];
}

const Requests: FunctionComponent<Pick<Given, "options">> = ({ options }) =>
  createElement("p", null, words(useRequests(options)));

/** Notes what it shows. */
const Noted: FunctionComponent<Given> = ({ options, seen }) => {
  const rows = useRequests(options);
  seen.push(`${options.user}: ${words(rows)}`);
  return null;
};

/** Notes what it shows and is told of which session. */
const Session: FunctionComponent<Given> = ({ options, seen }) => {
  const { sessionId } = options;
  const onUpdate = (row: RequestState) => seen.push(`${sessionId} told ${row.request_id}`);
  const rows = useRequests({ ...options, onUpdate });
  for (const row of rows) seen.push(`${sessionId} shows ${row.request_id}`);
  return words(rows);
};

const Row: FunctionComponent<{ id: string; options?: UseRequestsOptions; rendered?: string[] }> = (given) => {
  const { id, options, rendered } = given;
  rendered?.push(id);
  return useRequest(id, options)?.status ?? "unknown";
};

const Light: FunctionComponent = () => {
  const { status, reason } = useStreamStatus();
  return `${status} ${reason}`;
};

const List: FunctionComponent = () => words(useRequests());

test("what there is, is shown, and every change of it", async () => {
  const { page, options } = pageOf();
  page.service.change("a");
  const view = mount();
  await view.render(createElement(Requests, { options }));
  expect(view.text).toBe("a in_progress");
  await act(async () => {
    page.service.change("b");
    page.service.change("a", { status: "done" });
    await page.clock.pass(0);
  });
  expect(view.text).toBe("a done, b in_progress");
  await act(async () => {
    page.service.remove("a");
    await page.clock.pass(0);
  });
  expect(view.text).toBe("b in_progress");
});

describe(`${fault(43)}one stream`, () => {
  test("is opened in StrictMode, and closed a moment after the last component has gone", async () => {
    const { page, options } = pageOf();
    page.service.change("a");
    const view = mount();
    await view.render(createElement(StrictMode, null, createElement(Requests, { options })));
    expect(view.text).toBe("a in_progress");
    expect(page.service.asked.length).toBe(1);
    await view.unmount();
    await pass(GRACE_MS - 1);
    expect(page.service.liveStreams.length).toBe(1);
    await pass(1);
    expect(page.service.liveStreams.length).toBe(0);
  });

  test("is for all components that show a session, each with an onUpdate of its own", async () => {
    const { page, options } = pageOf();
    const told: string[] = [];
    const child = (name: string) =>
      createElement(Requests, {
        key: name,
        options: { ...options, onUpdate: (row) => told.push(`${name} ${row.version}`) },
      });
    const view = mount();
    await view.render([child("one"), child("two")]);
    await act(async () => {
      page.service.change("a");
      await page.clock.pass(0);
    });
    expect(told).toEqual(["one 1", "two 1"]);
    await view.render([child("two")]);
    await act(async () => {
      page.service.change("a");
      await page.clock.pass(0);
    });
    expect(told.slice(2)).toEqual(["two 2"]);
    expect(page.service.asked.length).toBe(1);
  });

  test("calls a function that two of them share for each of them, until it is gone", async () => {
    const { page, options } = pageOf();
    const told: number[] = [];
    const onUpdate = (row: RequestState) => told.push(row.version);
    const child = (key: string) => createElement(Requests, { key, options: { ...options, onUpdate } });
    const view = mount();
    await view.render([child("one"), child("two")]);
    page.service.change("a");
    await pass(0);
    await view.render([child("two")]);
    page.service.change("a");
    await pass(0);
    expect(told).toEqual([1, 1, 2]);
  });

  test("lives on while one page of an application gives way to the next, however often", async () => {
    const { page, options } = pageOf();
    page.service.change("a");
    for (let time = 0; time < 5; time++) {
      const view = mount();
      await view.render(createElement(Requests, { options }));
      expect(view.text).toBe("a in_progress");
      await pass(200);
      await view.unmount();
      await pass(200);
    }
    expect(page.service.asked.length).toBe(1);
  });
});

test(`${fault(43)}a fast switch from A to B and back shows nothing of A in B, and opens one stream for each`, async () => {
  const a = pageOf("session-a");
  const b = pageOf("session-b");
  a.page.service.change("a1");
  b.page.service.change("b1");
  const seen: string[] = [];
  const view = mount();
  for (const { options } of [a, b, a, b, a]) {
    await act(async () => {
      a.page.service.change("a1");
      b.page.service.change("b1");
    });
    await view.render(createElement(Session, { options, seen }));
    await pass(20);
  }
  expect(view.text).toBe("a1 in_progress");
  expect(seen.length).toBeGreaterThan(10);
  for (const line of seen) expect(line).toMatch(/^session-([ab]) (told|shows) \1/);
  expect(a.page.service.asked.length).toBe(1);
  expect(b.page.service.asked.length).toBe(1);
});

test("another user sees nothing of the one before, not even for a moment", async () => {
  const ada = pageOf();
  const bob = pageOf();
  ada.page.service.change("hers");
  bob.page.service.change("his");
  const seen: string[] = [];
  const view = mount();
  await view.render(createElement(Noted, { options: { ...ada.options, user: "ada" }, seen }));
  await view.render(createElement(Noted, { options: { ...bob.options, user: "bob" }, seen }));
  expect([...new Set(seen)]).toEqual(["ada: ", "ada: hers in_progress", "bob: ", "bob: his in_progress"]);
});

test("every change is told once, in order, however many of them React shows at once", async () => {
  const { page, options } = pageOf();
  const told: number[] = [];
  const seen: string[] = [];
  const view = mount();
  await view.render(createElement(Noted, { options: { ...options, onUpdate: (row) => told.push(row.version) }, seen }));
  const row = page.service.change("a");
  await pass(0);
  const before = seen.length;
  // In one piece, which React shows at once.
  const versions = Array.from({ length: 100 }, (_, number) => number + 2);
  page.service.say(versions.map((version) => event("request_update", { ...row, version })).join(""));
  await pass(0);
  expect(told).toEqual([1, ...versions]);
  expect(seen.length - before).toBe(1);
});

test("one that throws is reported, and keeps the change from nobody", async () => {
  const { page, options } = pageOf();
  const reporting = vi.spyOn(globalThis, "queueMicrotask").mockImplementation((report) => {
    if (!String(report).includes("throw")) return void Promise.resolve().then(report);
    expect(report).toThrow("its own");
  });
  const told: number[] = [];
  const fail = () => {
    throw new Error("its own");
  };
  const view = mount();
  await view.render([
    createElement(Requests, { key: 1, options: { ...options, onUpdate: fail } }),
    createElement(Requests, { key: 2, options: { ...options, onUpdate: (row) => told.push(row.version) } }),
  ]);
  await act(async () => {
    page.service.change("a");
    await page.clock.pass(0);
  });
  reporting.mockRestore();
  expect(told).toEqual([1]);
});

describe("with a provider", () => {
  test("the hooks need no options, and the stream is one", async () => {
    const { page, options } = pageOf();
    page.service.change("a");
    const told: string[] = [];
    const view = mount();
    await view.render(
      createElement(
        RequestsProvider,
        { ...options, onUpdate: (row) => told.push(row.status) },
        createElement(Row, { id: "a" }),
        " | ",
        createElement(Row, { id: "b" }),
        " | ",
        createElement(Light),
        " | ",
        createElement(List),
      ),
    );
    expect(view.text).toBe("in_progress | unknown | live  | a in_progress");
    await act(async () => {
      page.service.change("a", { status: "done" });
      page.service.degrade();
      await page.clock.pass(0);
    });
    expect(view.text).toBe("done | unknown | catching_up degraded | a done");
    expect(told).toEqual(["in_progress", "done"]);
    expect(page.service.asked.filter(({ url }) => url.pathname.includes("/sse/")).length).toBe(1);
  });

  test("only what has changed is rendered again", async () => {
    const { page, options } = pageOf();
    page.service.change("a");
    page.service.change("b");
    const rendered: string[] = [];
    const view = mount();
    const row = (id: string) => createElement(Row, { key: id, id, options, rendered });
    await view.render([row("a"), row("b")]);
    rendered.length = 0;
    page.service.change("b", { status: "done" });
    await pass(0);
    expect(rendered).toEqual(["b"]);
    expect(view.text).toBe("in_progressdone");
  });

  test("or options, or it is an error", () => {
    expect(() => renderToString(createElement(List))).toThrow("RequestsProvider");
  });
});

describe("on a server", () => {
  const given = () => {
    const { page, options } = pageOf();
    const row = page.service.change("a");
    return { page, options: { ...options, initial: { requests: [row] } } };
  };

  test("what is given is rendered, else nothing, and no stream is opened", () => {
    const { page, options } = given();
    expect(renderToString(createElement(Requests, { options }))).toBe("<p>a in_progress</p>");
    const { initial: _, ...bare } = options;
    expect(renderToString(createElement(Requests, { options: bare }))).toBe("<p></p>");
    expect(page.service.asked).toEqual([]);
  });

  test("what was rendered is taken over as it is, and followed from there", async () => {
    const { page, options } = given();
    const node = createElement(StrictMode, null, createElement(Requests, { options }));
    const container = document.body.appendChild(document.createElement("div"));
    container.innerHTML = renderToString(node);
    const errors: unknown[] = [];
    await act(async () => {
      roots.add(hydrateRoot(container, node, { onRecoverableError: (error) => errors.push(error) }));
    });
    await pass(0);
    await act(async () => {
      page.service.change("a", { status: "done" });
      await page.clock.pass(0);
    });
    expect(container.textContent).toBe("a done");
    expect(errors).toEqual([]);
    expect(page.service.asked.length).toBe(1);
  });
});

test("options may be made anew with every render", async () => {
  const { page, options } = pageOf();
  page.service.change("a");
  const view = mount();
  let subscriptions = 0;
  const create: typeof createRequestStream = (given) => {
    const live = createRequestStream(given);
    const subscribe = (listener: () => void) => {
      subscriptions++;
      return live.subscribe(listener);
    };
    return { ...live, subscribe };
  };
  for (let time = 0; time < 4; time++) {
    const fresh = { ...options, create, initial: { requests: [] }, onUpdate: () => {} };
    await view.render(createElement(Requests, { options: fresh }));
  }
  expect(view.text).toBe("a in_progress");
  expect(subscriptions).toBe(1);
  expect(page.service.asked.length).toBe(1);
});

test("tabs can share the stream", async () => {
  const browser = new Browser();
  browser.service.change("a");
  const shared = await browser.follow();
  const tab = browser.open();
  const options: UseRequestsOptions = {
    sessionId: SESSION,
    user: "ada",
    environment: tab.environment(),
    create: (given) => createSharedStream({ ...given, share: true }),
  };
  const view = mount();
  await view.render(createElement(Requests, { options }));
  await act(() => browser.clock.pass(10));
  expect(view.text).toBe("a in_progress");
  expect(browser.service.asked.length).toBe(1);
  await view.unmount();
  await browser.clock.pass(GRACE_MS);
  shared.live.stop();
  await browser.clock.pass(0);
  expect(browser.channels.size).toBe(0);
});
