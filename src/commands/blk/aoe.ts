/** `torus blk aoe`: a volume as an ATA over Ethernet target. */
import { parseDuration, type TorusError } from "../../base";
import { flushKernelClient, MAJOR_MAX, type MacAddress, MINOR_MAX, parseMac } from "../../blockdev";
import { leaf, metaArgs, UsageError } from "../cli";
import { startClient, volumeArgs } from "../client";
import { buildInfo } from "../executable";

function parseAddress(what: string, text: string, max: number): number {
  const value = /^\d{1,5}$/.test(text) ? Number(text) : -1;
  if (value < 0 || value > max)
    throw new UsageError(`Cannot use ${what} "${text}": give a number from 0 to ${max}`);
  return value;
}

function parseAllowed(text: string | undefined): MacAddress[] {
  return (text ?? "")
    .split(",")
    .filter((one) => one !== "")
    .map((one) => {
      const address = parseMac(one.trim());
      if (address === undefined)
        throw new UsageError(`Cannot use MAC address "${one}": write it as 00:1a:2b:3c:4d:5e`);
      return address;
    });
}

export const aoeCommand = leaf({
  name: "aoe",
  description:
    "Serve a volume (or VOLUME@SNAPSHOT) over ATA over Ethernet; needs root. Each target of a network has its own MAJOR (shelf) and MINOR (slot)",
  examples: [
    "torus blk aoe data eth0 1 1",
    "torus blk aoe data eth0 1 1 --allow 00:1a:2b:3c:4d:5e",
    "torus blk aoe --flush e1.1",
  ],
  args: {
    flush: {
      type: "string",
      description:
        "Make this machine's own aoe driver forget a device that is down (e1.1, or all); serves nothing",
      valueHint: "DEVICE",
    },
    allow: { type: "string", description: "Serve only these MAC addresses", valueHint: "MAC,MAC" },
    "write-cache": {
      type: "boolean",
      description:
        "Answer writes before they are durable: only for clients that send flushes; Linux's does not",
    },
    ...volumeArgs,
    ...metaArgs,
  },
  variadic: "VOLUME INTERFACE MAJOR MINOR",
  lists: ["allow"],
  async run(args, words) {
    if (args.flush !== undefined) {
      if (words.length > 0) throw new UsageError("Give --flush DEVICE alone, or a volume to serve");
      flushKernelClient(args.flush);
      return;
    }
    const [volume, interfaceName, majorText, minorText, surplus] = words;
    if (
      volume === undefined ||
      interfaceName === undefined ||
      majorText === undefined ||
      minorText === undefined ||
      surplus !== undefined
    )
      throw new UsageError("Give VOLUME INTERFACE MAJOR MINOR, for example: torus blk aoe data eth0 1 1");
    const major = parseAddress("major address", majorText, MAJOR_MAX);
    const minor = parseAddress("minor address", minorText, MINOR_MAX);
    const allowed = parseAllowed(args.allow);
    const { promise: ended, resolve: stop } = Promise.withResolvers<TorusError | undefined>();
    const client = await startClient(
      args,
      args.wait === undefined ? undefined : parseDuration(args.wait),
      stop,
    );
    for (const signal of ["SIGTERM", "SIGINT"] as const)
      process.once(signal, () => {
        client.logger.log("info", `Stopping on ${signal}: detaching`);
        stop(undefined);
      });
    try {
      const opened = await client.plane.openAoe({
        ...{ volume, interfaceName, major, minor, allowed },
        writeCache: args["write-cache"] === true,
        firmware: buildInfo.version,
      });
      client.logger.log(
        "info",
        `Serving e${major}.${minor} on ${interfaceName} (MTU ${opened.mtuBytes}: ${opened.sectorCountMax} sectors a frame)`,
      );
      if (!opened.isUp)
        client.logger.log("warn", `Interface ${interfaceName} is down: ip link set ${interfaceName} up`);
      const failure = await ended;
      if (failure !== undefined) throw failure;
    } finally {
      await client.close();
    }
  },
});
