/** The data worker's file: runs the data path's event loop with the parts the main thread asks for. */
import { runLoopWorker, type SyncChannel } from "../../base/io";
import {
  type DataWorkerEvents,
  type DataWorkerMethods,
  DataWorkerParts,
  type MainEvents,
  type MainMethods,
} from "../data-plane";

runLoopWorker<{ syncChannel: SyncChannel }, DataWorkerMethods, MainMethods, DataWorkerEvents, MainEvents>(
  async ({ syncChannel }, context) => {
    const parts = new DataWorkerParts(context, syncChannel);
    return { methods: parts.methods, close: () => parts.close() };
  },
);
