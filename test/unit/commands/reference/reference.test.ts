/** The reference and the completion, as the real tree of commands makes them. */
import { describe, expect, test } from "bun:test";
import {
  candidates,
  type CommandNode,
  readTree,
  renderReference,
  renderUsage,
} from "../../../../src/commands/reference";
import { dispatch, rootCommand } from "../../../../src/commands/root";

const tree = await readTree(rootCommand, ["torus"]);

describe("candidates", () => {
  const names = {
    volumes: async () => ["data", "database", "logs"],
    snapshots: async (volume: string) => (volume === "data" ? ["monday", "tuesday"] : []),
    peers: async () => ["11111111-0000-4000-8000-000000000000"],
  };
  const complete = (...words: string[]) => candidates(tree, words, names);

  test("name commands and their subcommands", async () => {
    expect(await complete("vers")).toEqual(["version"]);
    expect(await complete("ctl", "vol")).toEqual(["volume"]);
    expect(await complete("ctl", "block", "snapshot", "")).toEqual([
      "create",
      "list",
      "delete",
      "restore",
      "diff",
    ]);
  });

  test("name volumes where a volume stands, snapshots behind an @, and nothing for new names", async () => {
    expect(await complete("ctl", "volume", "info", "data")).toEqual(["data", "database"]);
    expect(await complete("ctl", "volume", "resize", "--shrink", "l")).toEqual(["logs"]);
    expect(await complete("ctl", "block", "clone", "data@")).toEqual(["data@monday", "data@tuesday"]);
    expect(await complete("ctl", "block", "clone", "data@monday", "")).toEqual([]);
    expect(await complete("ctl", "volume", "create-block", "")).toEqual([]);
    expect(await complete("ctl", "volume", "rename", "data", "")).toEqual([]);
  });

  test("leave files to the shell, and name the volume behind one", async () => {
    expect(await complete("ctl", "block", "load", "")).toEqual([]);
    expect(await complete("ctl", "block", "load", "a.img", "l")).toEqual(["logs"]);
  });

  test("name peers, options and the values of options", async () => {
    expect(await complete("ctl", "peer", "drain", "1")).toEqual(["11111111-0000-4000-8000-000000000000"]);
    expect(await complete("ctl", "volume", "resize", "data", "--shr")).toEqual(["--shrink"]);
    expect(await complete("ctl", "block", "dump", "--read-level", "s")).toEqual(["seq", "spread"]);
    expect(await complete("ctl", "block", "dump", "--meta", "")).toEqual([]);
  });
});

test("renderReference has a section for every command, with all that it takes", () => {
  const text = renderReference(tree);
  for (const name of [
    "torus daemon",
    "torus ctl block import-diff",
    "torus blk nbdserve",
    "torus ctl completion",
  ])
    expect(text).toContain(`\n## ${name}\n`);
  const resize = text.slice(
    text.indexOf("## torus ctl volume resize"),
    text.indexOf("## torus ctl volume rename"),
  );
  expect(resize).toContain("    torus ctl volume resize NAME SIZE [options]\n");
  expect(resize).toContain("- `--shrink`: ");
  expect(resize).toContain("    torus ctl volume resize data 5GiB --shrink\n");
});

const leavesOf = (node: CommandNode): CommandNode[] =>
  node.children.length === 0 ? [node] : node.children.flatMap(leavesOf);
const groupsOf = (node: CommandNode): CommandNode[] =>
  node.children.length === 0 ? [] : [node, ...node.children.flatMap(groupsOf)];
const style = { width: 80, heading: (text: string) => text };

describe("renderUsage", () => {
  test.each(leavesOf(tree).map((leaf) => [leaf.path.join(" "), leaf] as const))(
    "of %s has examples that begin with a command, every option, and lines that fit",
    (called, leaf) => {
      const text = renderUsage(leaf, style);
      expect(text).toStartWith(called);
      expect(leaf.examples.length).toBeGreaterThan(0);
      for (const example of leaf.examples) {
        expect(example).toMatch(/\b(torus|torus-flex)\b/);
        expect(text).toContain(`\n  ${example}\n`);
      }
      for (const [name, arg] of leaf.args) if (arg.type !== "positional") expect(text).toContain(`--${name}`);
      const prose = text.slice(0, text.indexOf("\nExamples\n"));
      for (const line of prose.split("\n")) expect(line.length).toBeLessThanOrEqual(81);
    },
  );

  test.each(groupsOf(tree).map((group) => [group.path.join(" "), group] as const))(
    "of %s lists its commands",
    (called, group) => {
      const text = renderUsage(group, style);
      expect(text).toStartWith(`${called} COMMAND\n`);
      for (const { path } of group.children) expect(text).toContain(`\n  ${path.at(-1)} `);
    },
  );
});

test.each(leavesOf(tree).map(({ path }) => [path.join(" "), path.slice(1)] as const))(
  "%s refuses an option that nobody knows as wrong usage, and says where to look",
  async (called, words) => {
    const refused = dispatch(rootCommand, [...words, "--no-such-option=1"]);
    await expect(refused).rejects.toMatchObject({
      exitCode: 2,
      message: expect.stringMatching(new RegExp(`: see ${called} --help$`)),
    });
  },
);
