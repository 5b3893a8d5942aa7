/** Starts and ends the sync worker from the main thread, which owns its channel. */
import { IoError } from "./errors";
import { closeSyncChannel, createSyncChannel, stopSyncs, type SyncChannel } from "./sync-channel";

export interface SyncThread {
  /** To be handed to the loop's worker, for `new WorkerSyncer(loop, channel)`. */
  readonly channel: SyncChannel;
  /** Ends the thread; call it after the loop's worker has ended. */
  stop(): Promise<void>;
}

/** `url` is that of sync-worker.ts, in the source tree or inside the executable. */
export function startSyncThread(url: string, onFailure: (error: IoError) => void): SyncThread {
  const channel = createSyncChannel();
  const worker = new Worker(url, { workerData: { torusSyncChannel: channel } } as WorkerOptions);
  let isStopping = false;
  const ended = new Promise<void>((resolve) => {
    worker.addEventListener("close", () => {
      resolve();
      if (!isStopping) onFailure(new IoError("worker-gone", "Cannot go on: the sync thread ended by itself"));
      closeSyncChannel(channel);
    });
  });
  worker.addEventListener("error", (event) => {
    const text = event instanceof ErrorEvent ? event.message : "failed";
    if (!isStopping) onFailure(new IoError("worker-gone", `Cannot go on: the sync thread failed: ${text}`));
  });
  return {
    channel,
    stop: () => {
      isStopping = true;
      stopSyncs(channel);
      return ended;
    },
  };
}
