/** An event loop of this process with a thread that syncs files, as a store needs them; `stop` ends both. */
import { EventLoop, startSyncThread, WorkerSyncer } from "../../src/base/io";

export interface SyncedLoop {
  readonly loop: EventLoop;
  readonly syncer: WorkerSyncer;
  stop(): Promise<void>;
}

export function startSyncedLoop(): SyncedLoop {
  const loop = new EventLoop({ blockMsMax: 20 });
  const running = loop.run();
  const thread = startSyncThread(
    new URL("../../src/commands/workers/sync-worker.ts", import.meta.url).href,
    (error) => {
      throw error;
    },
  );
  const stop = async (): Promise<void> => {
    loop.stop();
    await running;
    await thread.stop();
  };
  return { loop, syncer: new WorkerSyncer(loop, thread.channel), stop };
}
