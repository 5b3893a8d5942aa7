import { describe, expect, test } from "bun:test";
import { defineCommand } from "citty";
import { group, leaf } from "../../../../src/commands/cli";
import { dispatch, findCommand, wordsFor } from "../../../../src/commands/root";

const levelArg = { type: "enum" as const, options: ["low", "high"] };

function sampleTree(calls: string[]) {
  const status = leaf({
    name: "status",
    description: "Show status",
    examples: ["torus ctl status"],
    args: { json: { type: "boolean" }, part: { type: "positional", required: false }, level: levelArg },
    run: (args) => {
      calls.push(`status json=${args.json === true}`);
    },
  });
  const list = defineCommand({ meta: { name: "list", alias: ["ls"] }, run: () => void calls.push("list") });
  return group("torus", "sample", {
    ctl: () =>
      Promise.resolve(group("ctl", "control", { status, volume: group("volume", "volumes", { list }) })),
  });
}

describe("wordsFor", () => {
  test.each([
    ["torus", ["ctl", "status"], ["ctl", "status"]],
    ["./torusd", ["--size", "1GiB"], ["daemon", "--size", "1GiB"]],
    ["/usr/bin/torusctl", ["status"], ["ctl", "status"]],
    ["torusblk", ["nbd", "db"], ["blk", "nbd", "db"]],
    ["ringtool", [], ["ringtool"]],
    ["bun", ["version"], ["version"]],
    ["constructor", ["version"], ["version"]],
  ])("%s %p", (argv0, words, expected) => {
    expect(wordsFor(argv0, words)).toEqual(expected);
  });
});

describe("findCommand", () => {
  test.each([
    [["ctl", "status", "--json"], "torus ctl status", ["--json"]],
    [["ctl", "volume", "list"], "torus ctl volume list", []],
    [["ctl", "volume", "ls"], "torus ctl volume ls", []],
    [["ctl", "--debug", "status"], "torus ctl status", ["--debug"]],
    [["ctl", "--help"], "torus ctl", ["--help"]],
    [[], "torus", []],
  ])("walks %p", async (words, path, rest) => {
    const found = await findCommand(sampleTree([]), words);
    expect(found.path.join(" ")).toBe(path);
    expect(found.rest).toEqual(rest);
  });

  test.each([
    [["clt"], `Unknown command "clt" for "torus": see torus --help`],
    [["constructor"], `Unknown command "constructor" for "torus": see torus --help`],
    [["ctl", "toString"], `Unknown command "toString" for "torus ctl": see torus ctl --help`],
    [["ctl", "--json", "status"], `Unknown option "--json" for "torus ctl": see torus ctl --help`],
  ])("refuses %p as wrong usage", async (words, message) => {
    const attempt = findCommand(sampleTree([]), words);
    await expect(attempt).rejects.toMatchObject({ message, code: "usage", exitCode: 2 });
  });
});

describe("dispatch", () => {
  test("runs the leaf, once, with its flags", async () => {
    const calls: string[] = [];
    await dispatch(sampleTree(calls), ["ctl", "status", "--json"]);
    await dispatch(sampleTree(calls), ["ctl", "volume", "list"]);
    expect(calls).toEqual(["status json=true", "list"]);
  });

  test("refuses a group without a command, and names what it has", async () => {
    await expect(dispatch(sampleTree([]), ["ctl", "volume"])).rejects.toMatchObject({
      message: `No command given for "torus ctl volume": it has list, ls; see torus ctl volume --help`,
      exitCode: 2,
    });
  });

  test.each([
    [["--frob"], `Unknown option --frob for "torus ctl status": see torus ctl status --help`],
    [
      ["-5MiB"],
      `"-5MiB" is negative, which nothing of "torus ctl status" may be: see torus ctl status --help`,
    ],
    [
      ["--frob", "--level", "middle"],
      `Unknown option --frob for "torus ctl status": see torus ctl status --help`,
    ],
    [["a", "b"], `Unexpected argument "b" for "torus ctl status": see torus ctl status --help`],
    [
      ["--level", "middle"],
      "Invalid value for argument: --level (middle). Expected one of: low, high: see torus ctl status --help",
    ],
  ])("refuses %p of a leaf as wrong usage, by the command's whole name", async (words, message) => {
    const attempt = dispatch(sampleTree([]), ["ctl", "status", ...words]);
    await expect(attempt).rejects.toMatchObject({ message, code: "usage", exitCode: 2 });
  });
});
