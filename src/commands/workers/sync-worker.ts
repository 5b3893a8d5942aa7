/** The sync worker's file, here because the build finds workers here: see base/io. */
import { runSyncWorker } from "../../base/io";

runSyncWorker();
