/** What a user's own compiler says of the package. */

import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const root = new URL("../..", import.meta.url).pathname;
const compilerOptions = {
  noEmit: true,
  strict: true,
  exactOptionalPropertyTypes: true,
  target: "es2022",
  lib: ["es2022", "dom"],
  module: "nodenext",
  types: [],
};

/** Compile `usage` in a directory where the package is installed; return what is wrong with it. */
export async function complaints(directory: string, usage: string): Promise<string> {
  await writeFile(join(directory, "usage.ts"), usage);
  await writeFile(join(directory, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["usage.ts"] }));
  const { stdout } = await run(join(root, "node_modules/.bin/tsc"), ["-p", directory]).catch((failed) => failed);
  return stdout;
}
