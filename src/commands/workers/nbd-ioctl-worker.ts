/** The thread that waits in the kernel for an nbd device attached by ioctl. */
import { runNbdIoctlWorker } from "../../blockdev";

declare const self: Parameters<typeof runNbdIoctlWorker>[0];
runNbdIoctlWorker(self);
