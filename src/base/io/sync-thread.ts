/** Starts and ends the sync worker from the main thread, which owns its channel, and the body of the worker's file. */
import { workerData } from "node:worker_threads";
import { IoError } from "./errors";
import { closeSyncChannel, createSyncChannel, serveSyncs, stopSyncs, type SyncChannel } from "./sync-channel";

interface SyncWorkerData {
  readonly torusSyncChannel: SyncChannel;
}

export interface SyncThread {
  /** To be handed to the loop's worker, for `new WorkerSyncer(loop, channel)`. */
  readonly channel: SyncChannel;
  /** Ends the thread; call it after the loop's worker has ended. */
  stop(): Promise<void>;
}

/** `url` is that of a file that calls `runSyncWorker`, in the source tree or inside the executable. */
export function startSyncThread(url: string, onFailure: (error: IoError) => void): SyncThread {
  const channel = createSyncChannel();
  const data: SyncWorkerData = { torusSyncChannel: channel };
  const worker = new Worker(url, { workerData: data } as WorkerOptions);
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

/** The whole body of the sync worker's file: serves until `stop`, then ends the thread. */
export function runSyncWorker(): void {
  serveSyncs((workerData as SyncWorkerData).torusSyncChannel);
  process.exit(0);
}
