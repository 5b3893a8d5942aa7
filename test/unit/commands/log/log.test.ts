/** The daemon's log: its two forms, its levels, and lines that repeat. */
import { afterAll, afterEach, expect, setSystemTime, spyOn, test } from "bun:test";
import { makeLogger } from "../../../../src/commands/log";

const written: string[] = [];
const stderr = spyOn(process.stderr, "write").mockImplementation((text) => {
  written.push(String(text));
  return true;
});
const now = spyOn(performance, "now");

afterAll(() => {
  now.mockRestore();
  stderr.mockRestore();
});

afterEach(() => {
  written.length = 0;
  setSystemTime();
});

test("text has time, level and message; JSON the same as an object a line", () => {
  setSystemTime(new Date("2026-03-01T12:00:00.000Z"));
  makeLogger("text", "info").log("warn", "a disk is slow");
  makeLogger("json", "info").log("error", 'it said "no"\nand more');
  expect(written[0]).toBe("2026-03-01T12:00:00.000Z warn  a disk is slow\n");
  expect(written[1]?.split("\n")).toHaveLength(2);
  expect(JSON.parse(written[1] as string)).toEqual({
    time: "2026-03-01T12:00:00.000Z",
    level: "error",
    message: 'it said "no"\nand more',
  });
});

test("a level hides what is less, and changes while it runs", () => {
  const logger = makeLogger("text", "warn");
  for (const level of ["debug", "info", "warn", "error"] as const) logger.log(level, `a ${level}`);
  expect(written.map((line) => line.slice(25).trim())).toEqual(["warn  a warn", "error a error"]);
  logger.setLevel("debug");
  expect(logger.level).toBe("debug");
  logger.log("debug", "now seen");
  expect(written[2]).toContain("debug now seen");
});

test("a line that repeats is written once in ten seconds, and then says how often it came", () => {
  const logger = makeLogger("text", "info");
  let nowMs = 1_000;
  now.mockImplementation(() => nowMs);
  for (let count = 0; count < 1_000; count++) logger.log("warn", "the same");
  logger.log("warn", "another");
  logger.log("error", "the same");
  expect(written.map((line) => line.slice(25).trim())).toEqual([
    "warn  the same",
    "warn  another",
    "error the same",
  ]);
  nowMs += 10_001;
  logger.log("warn", "the same");
  expect(written[3]).toContain("the same (and 999 times before)");
});
