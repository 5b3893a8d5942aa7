/**
 * Leaves the serving process running behind when the command returns: the same command line again, without
 * --background, in a session of its own, its log in a file. The command waits until the device is there, or says what
 * the process said when it failed.
 */
import { mkdirSync, openSync, closeSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { sleep } from "../../base";
import { systemClock } from "../../base/io";
import { RECORD_DIRECTORY_DEFAULT } from "../attach";
import { CommandError } from "../cli";
import { isCompiled } from "../executable";

/** Making a file system on a large volume takes long. */
const READY_MS_MAX = 35 * 60_000;
const LOOK_AGAIN_MS = 50;
const READY_LINE = /(?:Attached|Took over) .* as (\/dev\/nbd\d+)/;

export async function runInBackground(name: string): Promise<void> {
  mkdirSync(RECORD_DIRECTORY_DEFAULT, { recursive: true });
  const logFile = join(RECORD_DIRECTORY_DEFAULT, `attach-${name.replaceAll(/[^A-Za-z0-9._@-]/g, "_")}.log`);
  const log = openSync(logFile, "w", 0o644);
  const words = process.argv.slice(2).filter((word) => !/^--background(=.*)?$/.test(word));
  const child = Bun.spawn([process.execPath, ...(isCompiled ? [] : [Bun.main]), ...words], {
    stdin: "ignore",
    stdout: log,
    stderr: log,
    detached: true,
    argv0: process.argv0,
  });
  closeSync(log);
  const deadlineMs = systemClock.nowMs() + READY_MS_MAX;
  for (;;) {
    const text = readFileSync(logFile, "utf8");
    const path = READY_LINE.exec(text)?.[1];
    if (path !== undefined) {
      process.stdout.write(`${path}\n`);
      child.unref();
      return;
    }
    if (child.exitCode !== null) {
      const lastLine = text.trim().split("\n").at(-1) ?? "";
      throw new CommandError(
        "conflict",
        lastLine === "" ? `Cannot attach ${name}: see ${logFile}` : lastLine,
      );
    }
    if (systemClock.nowMs() > deadlineMs)
      throw new CommandError("conflict", `Cannot say whether ${name} is attached: see ${logFile}`);
    await sleep(systemClock, LOOK_AGAIN_MS);
  }
}
