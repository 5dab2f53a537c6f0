/** Print what each part of the client costs a page, minified and gzipped, and fail where it is more than it may be. */

import { gzipSync } from "node:zlib";
import { build } from "rolldown";

/** What a page may import, and the most that it may cost, gzipped, in bytes; without what it imports `besides`. */
const PARTS = [
  {
    name: "parser, stream, polls, backoff, watchdog, store",
    code: `
      export { fetchStream } from "./src/fetch-stream.ts";
      export { openConnection } from "./src/connection.ts";
      export { createPolling } from "./src/poll.ts";
      export { createBackoff } from "./src/backoff.ts";
      export { createKnowledge } from "./src/knowledge.ts";
      export { createStore } from "./src/store.ts";
      export { createSend } from "./src/exchange.ts";
      export { createTimers } from "./src/timers.ts";`,
    most: 5_000,
  },
  { name: "createRequestStream", code: 'export { createRequestStream } from "./src/index.ts";', most: 6_600 },
  {
    name: "tabs, on top",
    code: 'export { createRequestStream } from "./src/index.ts"; export * from "./src/tabs.ts";',
    besides: 'export { createRequestStream } from "./src/index.ts";',
    most: 1_331,
  },
  {
    name: "react, on top",
    code: 'export { createRequestStream } from "./src/index.ts"; export * from "./src/react.ts";',
    besides: 'export { createRequestStream } from "./src/index.ts";',
    most: 800,
  },
  { name: "everything", code: 'export * from "./src/index.ts";', most: 9_000 },
];

const root = new URL("..", import.meta.url).pathname;

async function sizeOf(code) {
  const entry = "\0entry";
  const { output } = await build({
    input: entry,
    write: false,
    external: ["react"],
    platform: "browser",
    logLevel: "silent",
    output: { format: "esm", minify: true },
    plugins: [
      {
        name: "entry",
        resolveId: (id) => (id === entry ? id : undefined),
        load: (id) => (id === entry ? code.replaceAll("./src", `${root}/src`) : undefined),
      },
    ],
  });
  const text = output[0].code;
  return { minified: text.length, gzipped: gzipSync(text, { level: 9 }).length };
}

for (const { name, code, besides, most } of PARTS) {
  let { minified, gzipped } = await sizeOf(code);
  if (besides) {
    const rest = await sizeOf(besides);
    minified -= rest.minified;
    gzipped -= rest.gzipped;
  }
  console.log(`${name}: ${minified} bytes minified, ${gzipped} gzipped, of at most ${most}`);
  if (gzipped > most) process.exitCode = 1;
}
