import fc from "fast-check";
import { expect, test } from "vitest";
import { CAP_MS, createBackoff } from "../src/backoff.js";

const dice = fc.infiniteStream(fc.double({ min: 0, max: 0.999_999, noNaN: true }));

test("a wait is at most what has been lost so far, and never more than the cap", () => {
  fc.assert(
    fc.property(dice, fc.integer({ min: 1, max: 60 }), (random, failures) => {
      let now = 0;
      const backoff = createBackoff(
        () => now,
        () => random.next().value as number,
      );
      for (let failure = 0; failure < failures; failure++) {
        const wait = backoff.next();
        expect(wait).toBeGreaterThan(0);
        expect(wait).toBeLessThanOrEqual(Math.min(CAP_MS, 500 * 2 ** failure));
        expect(wait).toBeLessThanOrEqual(Math.max(2_000, now / 2));
        now += wait;
      }
    }),
  );
});

test("what the server asks for is a floor, with no more than two fifths on top", () => {
  fc.assert(
    fc.property(dice, fc.integer({ min: 0, max: 600_000 }), fc.nat({ max: 20 }), (random, floor, failures) => {
      const backoff = createBackoff(
        () => 0,
        () => random.next().value as number,
      );
      for (let failure = 0; failure < failures; failure++) backoff.next();
      const wait = backoff.next(floor);
      expect(wait).toBeGreaterThanOrEqual(floor);
      expect(wait).toBeLessThanOrEqual(Math.max(floor * 1.4, 2_000));
    }),
  );
});

test("the first wait after a stream that lived long is short, and many clients spread", () => {
  let now = 0;
  const backoff = createBackoff(
    () => now,
    () => 0.999,
  );
  for (let failure = 0; failure < 20; failure++) now += backoff.next();
  backoff.worked();
  expect(backoff.next()).toBeLessThanOrEqual(500);
  const waits = Array.from({ length: 1_000 }, () => createBackoff(() => 0, Math.random).next());
  expect(Math.max(...waits) - Math.min(...waits)).toBeGreaterThan(300);
});

test("a success that does not last shortens the outage, but not the next wait", () => {
  let now = 0;
  const backoff = createBackoff(
    () => now,
    () => 0.999,
  );
  for (let failure = 0; failure < 20; failure++) now += backoff.next();
  backoff.worked(false);
  expect(backoff.next()).toBe(2_000);
});
