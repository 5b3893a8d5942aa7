/** The thread that syncs and does nothing else: an entry point of the build, started by `startSyncWorker`. */
import { workerData } from "node:worker_threads";
import { serveSyncs, type SyncChannel } from "./sync-channel";

const data = workerData as { torusSyncChannel?: SyncChannel } | undefined;
// Imported for its URL alone, this file does nothing.
if (data?.torusSyncChannel !== undefined) {
  serveSyncs(data.torusSyncChannel);
  process.exit(0);
}
