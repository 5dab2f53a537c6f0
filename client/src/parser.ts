/**
 * Server-Sent Events from bytes, however they are cut.
 *
 * https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
 */

/** One event of a stream; `id` is the last one that was sent, with this event or before it. */
export interface ServerEvent {
  readonly name: string;
  readonly data: string;
  readonly id: string;
}

/** Who is told what the bytes say. */
export interface ParserListeners {
  event(event: ServerEvent): void;
  /** Told at the end of the line, not of the block: a comment is a sign of life. */
  comment?(text: string): void;
  retry?(ms: number): void;
}

const MOST_CHARACTERS = 1 << 20;

/**
 * Return a function that takes pieces of any size and tells the events that they complete.
 *
 * What a stream ends in the middle of is never told, nor is its id. It throws a RangeError for an event of more than
 * `most` characters: nobody sends such a thing on purpose, and memory has an end.
 */
export function createParser(on: ParserListeners, most: number = MOST_CHARACTERS): (piece: Uint8Array) => void {
  // Drops one byte order mark at the very start, and puts together what was cut inside a character.
  const decoder = new TextDecoder();
  let afterReturn = false;
  let line = "";
  let data: string | undefined;
  let name = "";
  let id = "";
  let size = 0;

  const take = () => {
    if (!line) {
      if (data !== undefined) on.event({ name: name || "message", data, id });
      data = undefined;
      name = "";
      size = 0;
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (!field) on.comment?.(value);
    else if (field === "data") data = data === undefined ? value : `${data}\n${value}`;
    else if (field === "event") name = value;
    else if (field === "id" && !value.includes("\0")) id = value;
    else if (field === "retry" && /^\d+$/.test(value)) on.retry?.(+value);
  };

  return (piece) => {
    let text = decoder.decode(piece, { stream: true });
    if (!text) return;
    // The line ended with the CR, and was taken then; its LF may come a piece later.
    if (afterReturn && text[0] === "\n") text = text.slice(1);
    afterReturn = text.endsWith("\r");
    const lines = text.split(/\r\n|[\r\n]/);
    lines.forEach((part, index) => {
      line += part;
      if (size + line.length > most) throw new RangeError(`an event is larger than ${most}`);
      if (index < lines.length - 1) {
        size += line.length;
        take();
        line = "";
      }
    });
  };
}
