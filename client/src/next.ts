/** A route handler of the Next.js App Router in front of the service: streams and polls as they come. */

export interface ServiceRouteOptions {
  /** Where the service is, as the server of the page sees it: `http://rowcast:8000`. */
  readonly service: string;
  /** The path at the service. Default: that of the request. */
  readonly path?: (request: Request) => string;
  readonly fetch?: (url: URL, init: RequestInit) => Promise<Response>;
}

/** What the service has to know of a request: who asks, from where, and what is known there already. */
const REQUEST_HEADERS = [
  "accept",
  "authorization",
  "cookie",
  "if-none-match",
  "last-event-id",
  "origin",
  "sec-fetch-site",
];

/** What is true of one connection only, and what is not true any more once `fetch` has decoded the body. */
const HOP_HEADERS = ["connection", "keep-alive", "transfer-encoding", "upgrade", "content-encoding", "content-length"];

/**
 * Return a `GET` that passes a request on to the service, and what the service answers, byte by byte, to the page.
 *
 * Next.js reads the two settings from the route's own file, so they cannot come from here:
 *
 * ```ts
 * // app/api/sse/[session]/route.ts; likewise app/api/session/[session]/requests/route.ts and app/api/config/route.ts
 * import { serviceRoute } from "rowcast/next";
 *
 * export const runtime = "nodejs";
 * export const dynamic = "force-dynamic";
 * export const GET = serviceRoute({ service: process.env.ROWCAST_URL ?? "http://127.0.0.1:8000" });
 * ```
 */
export function serviceRoute({
  service,
  path = (request) => new URL(request.url).pathname,
  fetch,
}: ServiceRouteOptions): (request: Request) => Promise<Response> {
  return async (request) => {
    const url = new URL(service);
    // By the setters, which leave the host alone whatever the path is.
    url.pathname = url.pathname.replace(/\/$/, "") + path(request);
    url.search = new URL(request.url).search;
    // Compressed, events would wait in the compressor.
    const headers = new Headers({ "accept-encoding": "identity" });
    for (const name of REQUEST_HEADERS) {
      const value = request.headers.get(name);
      if (value !== null) headers.set(name, value);
    }
    let response: Response;
    try {
      response = await (fetch ?? globalThis.fetch)(url, {
        headers,
        signal: request.signal,
        cache: "no-store",
        redirect: "manual",
      });
    } catch {
      // The page is gone, or the service is not there.
      const body = { error: "The service cannot be reached", code: "unreachable" };
      return Response.json(body, { status: 502, headers: { "cache-control": "no-store", "retry-after": "1" } });
    }
    const passed = new Headers(response.headers);
    for (const name of HOP_HEADERS) passed.delete(name);
    // Nothing behind this is to hold the body back: no buffer of a proxy, and no compression.
    passed.set("x-accel-buffering", "no");
    const caching = passed.get("cache-control") ?? "no-cache";
    passed.set("cache-control", /no-transform/.test(caching) ? caching : `${caching}, no-transform`);
    return new Response(response.body, { status: response.status, headers: passed });
  };
}
