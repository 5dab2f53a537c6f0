/** The client as the service's page has it: one file without types, which is kept beside the page. `node scripts/page.js` writes it. */

import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "rolldown";

const ROOT = new URL("..", import.meta.url);

/** Where the page has it. */
export const PAGE = new URL("../src/rowcast/service/web/rowcast.js", ROOT);

/** Return what belongs there. */
export async function pageClient() {
  const { output } = await build({
    input: fileURLToPath(new URL("src/index.ts", ROOT)),
    write: false,
    platform: "browser",
    logLevel: "silent",
    output: { format: "esm", minify: { compress: true, mangle: true, codegen: { removeWhitespace: true } } },
  });
  return `// Made from client/ by \`scripts/client page\`; do not edit.\n${output[0].code.trimEnd()}\n`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await writeFile(PAGE, await pageClient());
