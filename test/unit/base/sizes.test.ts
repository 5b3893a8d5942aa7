import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  formatDuration,
  formatRate,
  formatSize,
  parseDuration,
  parseRate,
  parseSize,
  parseSizeOrShare,
  UnitError,
} from "../../../src/base";

describe("parseSize", () => {
  test.each([
    ["0", 0],
    ["4096", 4096],
    ["4096B", 4096],
    ["1K", 1000],
    ["1KB", 1000],
    ["1kb", 1000],
    ["1M", 1_000_000],
    ["20G", 20_000_000_000],
    ["1TB", 1e12],
    ["2P", 2e15],
    ["512KiB", 524_288],
    ["512Ki", 524_288],
    ["1.5 GiB", 1_610_612_736],
    [" 1MiB ", 1_048_576],
    ["1TiB", 2 ** 40],
    ["7PiB", 7 * 2 ** 50],
    ["9007199254740991", Number.MAX_SAFE_INTEGER],
  ])("reads %p as %p bytes", (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  test.each([
    "",
    "B",
    "-1",
    "1X",
    "1iB",
    "1 2",
    "1e3",
    "0x10",
    "K",
    "1..5K",
    "NaN",
    "1KiBB",
    "12345678901234567",
  ])("refuses %p", (text) => {
    expect(() => parseSize(text)).toThrow(
      `Cannot read size "${text}": give a number with B, K, M, G, T (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024)`,
    );
  });

  test("refuses a fraction of a byte and more than 2^53-1, as wrong usage", () => {
    expect(() => parseSize("1.5B")).toThrow('Cannot read size "1.5B": it is not a whole number of bytes');
    expect(() => parseSize("9007199254740992")).toThrow(
      'Cannot read size "9007199254740992": it is above 2^53-1 bytes',
    );
    try {
      parseSize("x");
    } catch (error) {
      expect(error).toBeInstanceOf(UnitError);
      expect((error as UnitError).code).toBe("bad-size");
      expect((error as UnitError).exitCode).toBe(2);
    }
  });

  test("never throws anything but UnitError, whatever the text", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[0-9.]{0,20}[kmgtpKMGTP]?i?[bB]?$/)), (text) => {
        try {
          const bytes = parseSize(text);
          return Number.isSafeInteger(bytes) && bytes >= 0;
        } catch (error) {
          return error instanceof UnitError;
        }
      }),
    );
  });
});

test("parseSizeOrShare reads percentages and sizes", () => {
  expect(parseSizeOrShare("80%")).toEqual({ kind: "share", percent: 80 });
  expect(parseSizeOrShare("12.5 %")).toEqual({ kind: "share", percent: 12.5 });
  expect(parseSizeOrShare("20GiB")).toEqual({ kind: "bytes", bytes: 20 * 2 ** 30 });
  expect(() => parseSizeOrShare("0%")).toThrow(
    'Cannot read share "0%": give more than 0 % and at most 100 %',
  );
  expect(() => parseSizeOrShare("101%")).toThrow("at most 100 %");
});

test("parseRate takes a size with or without /s", () => {
  expect(parseRate("100MiB")).toBe(104_857_600);
  expect(parseRate("1M/s")).toBe(1_000_000);
});

describe("formatSize", () => {
  test.each([
    [0, "0 B"],
    [1, "1 B"],
    [1023, "1023 B"],
    [1024, "1 KiB"],
    [1536, "1.50 KiB"],
    [524_288, "512 KiB"],
    [1_047_552, "1023 KiB"],
    [1_048_575, "1.00 MiB"],
    [16 * 2 ** 30, "16 GiB"],
    [205.4 * 2 ** 30, "205 GiB"],
    [2 ** 50, "1 PiB"],
    [-2048, "-2 KiB"],
  ])("shows %p as %p", (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
  });

  test("shows powers of 1000 when asked", () => {
    expect(formatSize(1_000_000, { si: true })).toBe("1 MB");
    expect(formatSize(999_999, { si: true })).toBe("1.00 MB");
    expect(formatRate(2500, { si: true })).toBe("2.50 kB/s");
  });

  test("is within half a percent of the value when read back", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 52 }), (bytes) => {
        const [amount, unit] = formatSize(bytes).split(" ") as [string, string];
        const power = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].indexOf(unit);
        return Math.abs(Number(amount) * 1024 ** power - bytes) <= bytes * 0.00501;
      }),
    );
  });
});

describe("durations", () => {
  test.each([
    ["0", 0],
    ["500ms", 500],
    ["5s", 5000],
    ["1m", 60_000],
    ["1h30m", 5_400_000],
    ["1.5s", 1500],
    ["7d", 604_800_000],
  ])("parseDuration reads %p as %p ms", (text, ms) => {
    expect(parseDuration(text)).toBe(ms);
  });

  test.each(["", "5", "s", "-1s", "1y", "5s ago", "1 m"])("parseDuration refuses %p", (text) => {
    expect(() => parseDuration(text)).toThrow(
      `Cannot read duration "${text}": give a number with ms, s, m, h or d`,
    );
  });

  test("parseDuration refuses more than a hundred years", () => {
    expect(() => parseDuration("40000d")).toThrow('Cannot read duration "40000d": it is above 100 years');
  });

  test.each([
    [0, "0ms"],
    [350, "350ms"],
    [1000, "1s"],
    [2500, "2.5s"],
    [12_000, "12s"],
    [250_000, "4m10s"],
    [7_500_000, "2h5m"],
    [3_600_000, "1h"],
    [273_600_000, "3d4h"],
    [-5000, "-5s"],
  ])("formatDuration shows %p ms as %p", (ms, text) => {
    expect(formatDuration(ms)).toBe(text);
  });
});
