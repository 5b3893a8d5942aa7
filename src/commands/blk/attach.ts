/** `torus blk attach`: a volume as a disk of this machine, in one line. */
import { resolve } from "node:path";
import { parseDuration } from "../../base";
import { leaf, metaArgs, parseVolumeSize, UsageError } from "../cli";
import { httpArgs, volumeArgs } from "../client";
import { attachArgs, attachOptions } from "./attach-options";
import { serveAttached } from "./attached";
import { runInBackground } from "./background";

export const attachCommand = leaf({
  name: "attach",
  description:
    "Attach a volume to this machine as /dev/nbdN, and serve it until it is detached or this process gets SIGTERM; needs root",
  examples: [
    "torus blk attach data --create 10GiB --mkfs ext4 --mount /srv/data",
    "torus blk attach data --background",
    "torus blk attach data --snapshot monday --mount /mnt/monday",
  ],
  args: {
    volume: { type: "positional", description: "Volume, or VOLUME@SNAPSHOT", required: true },
    create: { type: "string", description: "Make the volume first, if there is none", valueHint: "SIZE" },
    device: { type: "string", description: "Which device (default: the first free)", valueHint: "/dev/nbdN" },
    mkfs: { type: "string", description: "Make a file system, if the device is blank", valueHint: "TYPE" },
    mount: { type: "string", description: "Mount it; unmounted again at the end", valueHint: "DIR" },
    snapshot: { type: "string", description: "Attach this snapshot, read-only", valueHint: "NAME" },
    "detach-on-exit": {
      type: "boolean",
      description:
        "On SIGTERM unmount the device wherever it is mounted; otherwise only what --mount mounted, and a device that others mounted is served on",
    },
    background: { type: "boolean", description: "Return when the device is there; serve on behind" },
    ...attachArgs,
    ...volumeArgs,
    ...httpArgs,
    ...metaArgs,
  },
  async run(args) {
    const { volume, snapshot } = args;
    if (snapshot !== undefined && volume.includes("@"))
      throw new UsageError("Give the snapshot once: VOLUME@SNAPSHOT, or --snapshot");
    const name = snapshot === undefined ? volume : `${volume}@${snapshot}`;
    if (name.includes("@") && (args.create !== undefined || args.mkfs !== undefined))
      throw new UsageError("A snapshot is read-only: --create and --mkfs go with volumes");
    const serve = {
      options: attachOptions(name, args.device, args),
      createSizeBytes: args.create === undefined ? undefined : parseVolumeSize(args.create),
      fileSystem: args.mkfs,
      mountPoint: args.mount === undefined ? undefined : resolve(args.mount),
      detachOnExit: args["detach-on-exit"] === true,
      waitForLockMs: args.wait === undefined ? undefined : parseDuration(args.wait),
    };
    if (args.background) await runInBackground(name);
    else await serveAttached(args, serve);
  },
});
