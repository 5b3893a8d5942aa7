/** `torus blk nbd`: attaching and detaching in the words of Torus. */
import { parseDuration } from "../../base";
import { leaf, metaArgs, UsageError } from "../cli";
import { httpArgs, volumeArgs } from "../client";
import { attachArgs, attachOptions } from "./attach-options";
import { serveAttached } from "./attached";
import { findAttached } from "./attached-devices";
import { detachDevice } from "./detach";

export const nbdCommand = leaf({
  name: "nbd",
  description: "Attach a volume as an nbd device and serve it, or detach one (-d); see attach for more",
  examples: ["torus blk nbd data", "torus blk nbd data /dev/nbd3", "torus blk nbd -d /dev/nbd3"],
  args: {
    detach: { type: "string", alias: "d", description: "Detach this device", valueHint: "/dev/nbdN" },
    ...attachArgs,
    ...volumeArgs,
    ...httpArgs,
    ...metaArgs,
  },
  variadic: "VOLUME [DEVICE]",
  async run(args, words) {
    const [name, device, surplus] = words;
    if (args.detach !== undefined) {
      if (name !== undefined) throw new UsageError("Give -d DEVICE alone, or a volume to attach");
      const found = findAttached(args.detach);
      await detachDevice(found, false);
      console.log(`Detached ${found.name ?? "something else"} from ${found.device.path}`);
      return;
    }
    if (name === undefined || surplus !== undefined)
      throw new UsageError("Give VOLUME [DEVICE], for example: torus blk nbd data /dev/nbd3");
    await serveAttached(args, {
      options: attachOptions(name, device, args),
      detachOnExit: false,
      waitForLockMs: args.wait === undefined ? undefined : parseDuration(args.wait),
    });
  },
});
