/**
 * Cleaning (rule R11): overwritten pages leave dead space in old blocks; the live rest of the emptiest blocks is
 * rewritten into the log, after which their peers' collectors may delete them. A page is copied only if, at the
 * moment the copy enters the open block, the map still names the source and nothing newer exists anywhere.
 */
import type { LogWriter } from "./log-writer";
import type { VolumeCore } from "./volume-core";

export class Cleaner {
  constructor(
    readonly core: VolumeCore,
    readonly log: LogWriter,
  ) {}

  tick(): void {}

  snapshotTaken(): void {}

  stop(): Promise<void> {
    return Promise.resolve();
  }
}
