/** The reference and the completion, as the real tree of commands makes them. */
import { describe, expect, test } from "bun:test";
import { candidates, readTree, renderReference } from "../../../../src/commands/reference";
import { rootCommand } from "../../../../src/commands/root";

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
