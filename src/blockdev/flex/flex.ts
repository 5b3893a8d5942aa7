/**
 * Kubernetes' FlexVolume calls, as CoreOS Torus had them: the kubelet runs the driver with a verb and words, and reads
 * one line of JSON. Every outcome is such a line; a failure's exit code is 1. Newer clusters use CSI.
 *
 *   init                        -> {"status":"Success","capabilities":{"attach":true}}
 *   attach JSON [NODE]          -> {"status":"Success","device":"/dev/nbd0"}
 *   mount DIR DEVICE JSON       mountdevice DIR DEVICE JSON
 *   unmount DIR                 unmountdevice DIR
 *   detach DEVICE [NODE]
 */
import { TorusError } from "../../base";
import { type FlexAnswer, FlexError } from "./answer";

export interface FlexOptions {
  readonly volume: string;
  readonly fileSystem: string;
  readonly readOnly: boolean;
  /** Where the metadata is, as `--meta` has it; undefined: as the environment says. */
  readonly meta: string | undefined;
}

/** What a verb does; commands implements it. */
export interface FlexHost {
  /** Serves the volume as a device of this machine, by a process that goes on; the device's path. */
  attach(options: FlexOptions): Promise<string>;
  /** Does nothing when the device is not attached. */
  detach(device: string): Promise<void>;
  mount(folder: string, device: string, options: FlexOptions): Promise<void>;
  unmount(folder: string): Promise<void>;
}

const FILE_SYSTEM_DEFAULT = "ext4";

/** Throws "bad-options". `etcd` is what Torus' own volumes said. */
export function parseFlexOptions(text: string): FlexOptions {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new FlexError("bad-options", "Cannot read the volume's options: they are not JSON", {
      cause: error,
    });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new FlexError("bad-options", "Cannot read the volume's options: they are no JSON object");
  const options = value as Record<string, unknown>;
  const word = (name: string): string | undefined => {
    const found = Object.hasOwn(options, name) ? options[name] : undefined;
    if (found === undefined || found === "") return undefined;
    if (typeof found === "string") return found;
    throw new FlexError("bad-options", `Cannot use option "${name}": it is no text`);
  };
  const volume = word("volume");
  if (volume === undefined || volume.startsWith("-"))
    throw new FlexError("bad-options", 'Cannot attach: option "volume" does not name a volume');
  const etcd = word("etcd");
  return {
    volume,
    fileSystem: word("kubernetes.io/fsType") ?? FILE_SYSTEM_DEFAULT,
    readOnly: word("kubernetes.io/readwrite") === "ro",
    meta: word("meta") ?? (etcd === undefined ? undefined : `etcd://${etcd}`),
  };
}

function wordAt(words: readonly string[], index: number, verb: string): string {
  const word = words[index];
  if (word === undefined) throw new FlexError("bad-call", `Cannot ${verb}: argument ${index + 1} is missing`);
  return word;
}

/** Runs a verb; never throws. */
export async function runFlexVerb(
  verb: string,
  words: readonly string[],
  host: FlexHost,
): Promise<FlexAnswer> {
  const at = (index: number) => wordAt(words, index, verb);
  try {
    switch (verb) {
      case "init":
        return { status: "Success", capabilities: { attach: true } };
      case "attach":
        return { status: "Success", device: await host.attach(parseFlexOptions(at(0))) };
      case "detach":
        await host.detach(at(0));
        return { status: "Success" };
      case "mount":
      case "mountdevice":
        await host.mount(at(0), at(1), parseFlexOptions(at(2)));
        return { status: "Success" };
      case "unmount":
      case "unmountdevice":
        await host.unmount(at(0));
        return { status: "Success" };
      default:
        return { status: "Not supported", message: `torus has no "${verb}"` };
    }
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    return { status: "Failure", message: error instanceof TorusError ? text : `Internal error: ${text}` };
  }
}
