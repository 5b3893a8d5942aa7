/** What the daemon is told by flags and by a file. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseDaemonOptions } from "../../../../src/commands/daemon/options";

const folder = mkdtempSync(join(tmpdir(), "torus-options-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("--accept-loss is off unless given", async () => {
  expect((await parseDaemonOptions({})).acceptLoss).toBe(false);
  expect((await parseDaemonOptions({ "accept-loss": true })).acceptLoss).toBe(true);
});

test("a file cannot accept losses for every start to come", async () => {
  const config = join(folder, "torus.toml");
  writeFileSync(config, "accept-loss = true\n");
  await expect(parseDaemonOptions({ config })).rejects.toThrow(
    `Cannot use "accept-loss" in ${config}: give it as a flag, for one start, to a daemon that says its store is damaged`,
  );
  writeFileSync(config, 'zone = "rack-1"\n');
  expect((await parseDaemonOptions({ config })).zone).toBe("rack-1");
});
