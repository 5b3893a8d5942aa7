/**
 * `torus blk flex VERB ...`: the FlexVolume driver, also when the executable is called `torus-flex`. The kubelet's calls
 * end at once, so attaching is `torus blk attach --background`: the process that it leaves behind serves the device
 * until it is detached.
 */
import { resolve } from "node:path";
import { findMount } from "../../blockdev/csi";
import { listNbdDevices, makeFileSystem, mountDevice, unmount } from "../../blockdev";
import { FlexError, type FlexHost, type FlexOptions, runFlexVerb } from "../../blockdev/flex";
import { CommandError, leaf } from "../cli";
import { isCompiled } from "../executable";
import { attachedDevices, findAttached } from "./attached-devices";
import { detachDevice } from "./detach";

/** The kubelet gives up after two minutes. */
const ATTACH_MS_MAX = 110_000;

async function attach(options: FlexOptions): Promise<string> {
  const existing = attachedDevices().find(({ name, served }) => name === options.volume && served);
  if (existing !== undefined) return existing.device.path;
  const words = [
    ...[process.execPath, ...(isCompiled ? [] : [Bun.main]), "blk", "attach", options.volume, "--background"],
    ...(options.readOnly ? ["--read-only"] : []),
    ...(options.meta === undefined ? [] : ["--meta", options.meta]),
  ];
  // By its own name: by the one this process was called it would take the words for a verb.
  const child = Bun.spawn(words, {
    argv0: "torus",
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: ATTACH_MS_MAX,
  });
  const [output, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  const path = /^\/dev\/nbd\d+$/m.exec(output)?.[0];
  if ((await child.exited) === 0 && path !== undefined) return path;
  const said = errors.trim().split("\n").at(-1) ?? "";
  throw new FlexError(
    "attach-failed",
    said === "" ? `Cannot attach volume "${options.volume}": no device in ${ATTACH_MS_MAX} ms` : said,
  );
}

async function detach(path: string): Promise<void> {
  if (!listNbdDevices().some((device) => device.path === path && device.connected)) return;
  const found = findAttached(path);
  if (found.name === undefined)
    throw new FlexError("attach-failed", `Cannot detach ${path}: it is not a volume of torus`);
  await detachDevice(found, false);
}

const host: FlexHost = {
  attach,
  detach,
  async mount(folder, device, { fileSystem, readOnly }) {
    if (!readOnly) await makeFileSystem(device, fileSystem);
    await mountDevice(device, folder, readOnly);
  },
  /** Done already is done: the kubelet asks again when it has not heard the answer. */
  async unmount(folder) {
    if (findMount(resolve(folder)) !== undefined) await unmount(folder);
  },
};

export const flexCommand = leaf({
  name: "flex",
  hidden: true,
  description:
    "FlexVolume driver for Kubernetes; also when called torus-flex. New clusters use torus blk csi",
  examples: ["torus blk flex init", `torus blk flex attach '{"volume":"data"}'`],
  args: { verb: { type: "positional", description: "init, attach, mount, unmount, detach", required: true } },
  variadic: "WORD...",
  async run(args, words) {
    const answer = await runFlexVerb(args.verb, words, host);
    console.log(JSON.stringify(answer));
    if (answer.status === "Failure") throw new CommandError("io", answer.message ?? "failed");
  },
});
