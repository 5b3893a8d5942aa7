import { expect, test } from "bun:test";
import { AssertionError, TorusError } from "../../../../src/base";
import { reportError } from "../../../../src/commands/root";

test("reportError gives a TorusError's message and exit code, on one line", () => {
  expect(reportError(new TorusError("x", "Cannot do it:\n  try again"), false)).toEqual({
    text: "Cannot do it: try again",
    exitCode: 1,
  });
  expect(reportError(new TorusError("x", "Wrong", { exitCode: 2 }), false).exitCode).toBe(2);
});

test("reportError calls everything else a bug", () => {
  expect(reportError(new AssertionError("page 3 is mapped twice"), false)).toEqual({
    text: "Internal error: page 3 is mapped twice; please report it, with --debug",
    exitCode: 1,
  });
  expect(reportError(new TypeError("x is undefined"), false).text).toBe(
    "Internal error: TypeError: x is undefined; please report it, with --debug",
  );
  expect(reportError("just text", false).exitCode).toBe(1);
});

test("reportError says in words that nobody reads the output any more", () => {
  const broken = Object.assign(new Error("EPIPE: broken pipe, write"), { code: "EPIPE" });
  expect(reportError(broken, false)).toEqual({
    text: "Cannot write the output: whoever read it has closed it",
    exitCode: 1,
  });
});

test("reportError says in words that the output has no space", () => {
  const full = Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
  expect(reportError(full, false)).toEqual({
    text: "Cannot write the output: there is no space left where it goes",
    exitCode: 1,
  });
});

test("reportError shows stacks and causes only with debug", () => {
  const error = new TorusError("x", "Cannot do it", { cause: new Error("the disk is gone") });
  expect(reportError(error, false).text).toBe("Cannot do it");
  const text = reportError(error, true).text;
  expect(text).toStartWith("Cannot do it\n");
  expect(text).toContain("caused by: Error: the disk is gone");
  expect(text).toContain("report.test.ts");
});
