/** Bytes to events: one row of the standard each, and the same whatever pieces they come in. */

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { createParser, type ServerEvent } from "../src/parser.js";
import { fault } from "./support/fault.js";

type Told = [name: string, data: string, id: string];

const M = "message";
const VECTORS: Record<string, [text: string | Uint8Array, told: Told[]]> = {
  "one event": ["event: a\nid: 1\ndata: x\n\n", [["a", "x", "1"]]],
  "one space after the colon goes": [
    "data:  x\n\ndata:y\n\n",
    [
      [M, " x", ""],
      [M, "y", ""],
    ],
  ],
  "lines of data are joined": ["data: a\ndata:\ndata: b\n\n", [[M, "a\n\nb", ""]]],
  "data that is empty is data": [
    "data\n\ndata:\n\ndata\ndata\n\n",
    [
      [M, "", ""],
      [M, "", ""],
      [M, "\n", ""],
    ],
  ],
  "a field without a colon is empty": ["event\ndata\n\n", [[M, "", ""]]],
  "a value keeps its colons": ["data: a:b: c\n\n", [[M, "a:b: c", ""]]],
  "line ends": [
    "data: a\r\n\r\ndata: b\r\rdata: c\n\n",
    [
      [M, "a", ""],
      [M, "b", ""],
      [M, "c", ""],
    ],
  ],
  "line ends of all kinds in one block": ["event: e\rdata: a\r\ndata: b\n\r\n", [["e", "a\nb", ""]]],
  "an LF after a CR is one line end with it": ["data: a\r\ndata: b\r\n\r\n", [[M, "a\nb", ""]]],
  comments: [": x\ndata: a\n:\n: y\n\n", [[M, "a", ""]]],
  "unknown fields, and names in capitals": ["Data: x\nfoo: y\ndata: a\n data: z\n\n", [[M, "a", ""]]],
  "no data, no event": ["event: a\n\ndata: x\n\n", [[M, "x", ""]]],
  "the type is forgotten, the id is not": [
    "event: a\nid: 1\ndata\n\ndata\n\n",
    [
      ["a", "", "1"],
      [M, "", "1"],
    ],
  ],
  "an id sticks without data": ["id: 7\n\ndata: x\n\n", [[M, "x", "7"]]],
  "an empty id resets": [
    "id: 1\ndata\n\nid\ndata\n\n",
    [
      [M, "", "1"],
      [M, "", ""],
    ],
  ],
  "an id with NUL is ignored": ["id: 1\nid: a\0b\ndata\n\n", [[M, "", "1"]]],
  "what does not end is not told": ["data: a\n\nid: 9\ndata: b\n", [[M, "a", ""]]],
  "a mark of the byte order": [
    "\uFEFFdata: a\n\n\uFEFFdata: b\n\ndata: \uFEFFc\n\n",
    [
      [M, "a", ""],
      [M, "\uFEFFc", ""],
    ],
  ],
  "only the first mark is one": ["\uFEFF\uFEFFdata: a\n\ndata: b\n\n", [[M, "b", ""]]],
  "text of all kinds": ["data: 🙂 ß \u2028 \x85 用户\n\n", [[M, "🙂 ß \u2028 \x85 用户", ""]]],
  "bytes that are no text": [
    Uint8Array.of(...bytesOf("data: a"), 0xff, 0xf0, 0x9f, ...bytesOf("\n\n")),
    [[M, "a\uFFFD\uFFFD", ""]],
  ],
  nothing: ["\n\n\r\r\n", []],
};

function bytesOf(text: string | Uint8Array): Uint8Array {
  return typeof text === "string" ? new TextEncoder().encode(text) : text;
}

function parsed(pieces: Iterable<Uint8Array>): Told[] {
  const told: Told[] = [];
  const feed = createParser({ event: ({ name, data, id }: ServerEvent) => told.push([name, data, id]) });
  for (const piece of pieces) feed(piece);
  return told;
}

describe.each(Object.entries(VECTORS))("%s", (_, [text, told]) => {
  const bytes = bytesOf(text);

  test("in one piece", () => {
    expect(parsed([bytes])).toEqual(told);
  });

  test(`${fault(8)}in pieces of every size, with empty ones between`, () => {
    for (let size = 1; size < bytes.length; size++) {
      const pieces = [];
      for (let at = 0; at < bytes.length; at += size) pieces.push(bytes.slice(at, at + size), new Uint8Array());
      expect(parsed(pieces)).toEqual(told);
    }
  });

  test("cut at every two places", () => {
    for (let one = 0; one <= bytes.length; one++)
      for (let other = one; other <= bytes.length; other++)
        expect(parsed([bytes.slice(0, one), bytes.slice(one, other), bytes.slice(other)])).toEqual(told);
  });
});

test("any text comes through, cut anywhere, whatever ends its lines", () => {
  const line = fc.string({ unit: "grapheme" }).map((text) => text.replace(/[\r\n]/g, ""));
  const end = fc.constantFrom("\n", "\r", "\r\n");
  const events = fc.array(fc.tuple(fc.array(line, { minLength: 1, maxLength: 3 }), end), { maxLength: 4 });
  fc.assert(
    fc.property(events, fc.infiniteStream(fc.integer({ min: 1, max: 9 })), (blocks, sizes) => {
      // A CR at the end of a block and an LF at the start of the next would be one line end.
      const text = blocks.map(
        ([lines, ending]) => `${lines.map((each) => `data: ${each}`).join(ending)}${ending}${ending}`,
      );
      const bytes = bytesOf(text.join(""));
      const pieces = [];
      for (let at = 0; at < bytes.length; ) {
        const size = sizes.next().value as number;
        pieces.push(bytes.slice(at, at + size));
        at += size;
      }
      expect(parsed(pieces)).toEqual(blocks.map(([lines]) => [M, lines.join("\n"), ""]));
    }),
  );
});

test("a lone carriage return is not waited on", () => {
  const told: string[] = [];
  const feed = createParser({ event: ({ data }) => told.push(data) });
  feed(bytesOf("data: a\r\r"));
  expect(told).toEqual(["a"]);
  feed(bytesOf("\ndata: b\n\n"));
  expect(told).toEqual(["a", "b"]);
});

test("comments are told at the end of their line, and times to wait if they are numbers", () => {
  const told: unknown[] = [];
  const on = {
    event: () => told.push("event"),
    comment: (text: string) => told.push(text),
    retry: (ms: number) => told.push(ms),
  };
  createParser(on)(bytesOf(": keep-alive\nretry: 1000\nretry: 1e3\nretry: -1\nretry:\ndata: x\n"));
  expect(told).toEqual(["keep-alive", 1000]);
});

test(`${fault(5)}what is cut in the middle of a frame is not told, nor is its id`, () => {
  const whole = bytesOf("id: 1\ndata: a\n\nid: 2\ndata: b\n\n");
  for (let at = 0; at < whole.length; at++) {
    const told = parsed([whole.slice(0, at)]);
    expect(told).toEqual(
      [
        [M, "a", "1"],
        [M, "b", "2"],
      ].slice(0, told.length),
    );
    expect(told.length).toBeLessThan(2);
  }
});

test.each([
  ["in one line", `data: ${"x".repeat(200)}`],
  ["in many lines", "data: aaaa\n".repeat(20)],
  ["in a field that means nothing", `nothing: ${"x".repeat(200)}`],
])("what does not end %s is refused, before it is over", (_, text) => {
  const feed = createParser({ event: () => expect.unreachable() }, 100);
  expect(() => feed(bytesOf(text))).toThrow(RangeError);
});

test("many events are no large one, and a large one is fine where it is allowed", () => {
  expect(parsed([bytesOf(`data: ${"x".repeat(80)}\n\n`.repeat(50))]).length).toBe(50);
  const told: number[] = [];
  const feed = createParser({ event: ({ data }) => told.push(data.length) }, 1 << 24);
  const bytes = bytesOf(`data: ${"x".repeat(10_000_000)}\n\n`);
  for (let at = 0; at < bytes.length; at += 65_536) feed(bytes.subarray(at, at + 65_536));
  expect(told).toEqual([10_000_000]);
});
