/** The service's page has the client of this folder, and no other. */

import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { PAGE, pageClient } from "../scripts/page.js";

test("the page has this client: if it has another, run `scripts/client page`", async () => {
  expect(await pageClient()).toBe(await readFile(PAGE, "utf8"));
});
