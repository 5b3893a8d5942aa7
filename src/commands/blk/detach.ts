/**
 * `torus blk detach`: takes a device from the kernel. The process that serves it notices, gives its volume back and
 * ends; the command waits for that, so that the volume is free when it returns.
 */
import { existsSync } from "node:fs";
import { sleep } from "../../base";
import { systemClock } from "../../base/io";
import { detachFromKernel, listNbdDevices, unmount } from "../../blockdev";
import { isServed } from "../attach";
import { CommandError, leaf } from "../cli";
import { type AttachedDevice, findAttached } from "./attached-devices";

/** A clean detach writes out what is on the way and the map. */
const DETACH_MS_MAX = 60_000;
const LOOK_AGAIN_MS = 50;

export const detachCommand = leaf({
  name: "detach",
  description: "Flush a volume's device and take it from this machine's kernel; needs root",
  examples: ["torus blk detach data", "torus blk detach /dev/nbd0", "torus blk detach data --unmount"],
  args: {
    device: { type: "positional", description: "Volume or device", required: true },
    unmount: { type: "boolean", description: "Unmount it first, wherever it is mounted" },
    debug: { type: "boolean", description: "Show stack traces" },
  },
  async run(args) {
    const found = findAttached(args.device);
    await detachDevice(found, args.unmount === true);
    console.log(`Detached ${found.name ?? "something else"} from ${found.device.path}`);
  },
});

export async function detachDevice(found: AttachedDevice, unmountAll: boolean): Promise<void> {
  const { device, record, served } = found;
  for (const point of [...device.mountPoints].reverse())
    if (unmountAll || point === record?.mountPoint) await unmount(point);
  if (record !== undefined && served && record.method === "ioctl") {
    // Its process would refuse too, but to its log and not to us.
    const left = listNbdDevices().find(({ path }) => path === device.path)?.mountPoints ?? [];
    if (left.length > 0)
      throw new CommandError(
        "conflict",
        `Cannot detach ${device.path}: it is mounted at ${left.join(", ")}; unmount it first`,
      );
    process.kill(record.pid, "SIGTERM");
  }
  // With nobody behind it a flush would only wait.
  else await detachFromKernel(device.path, served || record === undefined);
  if (record === undefined) return;
  const isOver = () =>
    !isServed(record) &&
    !listNbdDevices().some((one) => one.path === device.path && one.connected && existsSync(one.path));
  for (const deadlineMs = systemClock.nowMs() + DETACH_MS_MAX; !isOver(); ) {
    if (systemClock.nowMs() > deadlineMs)
      throw new CommandError(
        "conflict",
        `Cannot wait any longer for process ${record.pid}, which served ${device.path}: see what it says`,
      );
    await sleep(systemClock, LOOK_AGAIN_MS);
  }
}
