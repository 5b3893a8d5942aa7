/** The thread that waits in NBD_DO_IT. */
import { runNbdIoctlWorker } from "../../../src/blockdev";

declare const self: Parameters<typeof runNbdIoctlWorker>[0];
runNbdIoctlWorker(self);
