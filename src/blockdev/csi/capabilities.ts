/** Which ways of using a volume torus can serve, and what a request's capability means. */
import { CsiError } from "./errors";
import { type VolumeCapability, VolumeCapability_AccessMode_Mode as Mode } from "./gen/csi_pb";

export const FILE_SYSTEM_DEFAULT = "ext4";
const FILE_SYSTEMS = new Set(["ext2", "ext3", "ext4", "xfs", "btrfs"]);
/** A volume has one writer, which is a machine; several containers on it may share it. */
const MODES: ReadonlySet<Mode> = new Set([
  Mode.SINGLE_NODE_WRITER,
  Mode.SINGLE_NODE_READER_ONLY,
  Mode.SINGLE_NODE_SINGLE_WRITER,
  Mode.SINGLE_NODE_MULTI_WRITER,
]);
const MOUNT_FLAGS_BYTES_MAX = 4096;

export interface Usage {
  readonly kind: "block" | "mount";
  /** "" for block. */
  readonly fileSystem: string;
  readonly mountFlags: readonly string[];
  readonly readOnly: boolean;
}

/** Why it cannot be served; undefined when it can. Throws "invalid-argument" for one that says nothing. */
export function whyNot(capability: VolumeCapability): string | undefined {
  const { accessType, accessMode } = capability;
  if (accessType.case === undefined)
    throw new CsiError("invalid-argument", "Cannot use a capability that is neither block nor mount");
  if (accessMode === undefined || accessMode.mode === Mode.UNKNOWN)
    throw new CsiError("invalid-argument", "Cannot use a capability without an access mode");
  if (!MODES.has(accessMode.mode))
    return `access mode ${Mode[accessMode.mode] ?? accessMode.mode}: a volume is used by one node at a time`;
  if (accessType.case === "block") return undefined;
  const { fsType, mountFlags } = accessType.value;
  if (fsType !== "" && !FILE_SYSTEMS.has(fsType))
    return `file system "${fsType}": choose one of ${[...FILE_SYSTEMS].join(", ")}`;
  if (mountFlags.reduce((sum, flag) => sum + flag.length, 0) > MOUNT_FLAGS_BYTES_MAX)
    return `mount flags of more than ${MOUNT_FLAGS_BYTES_MAX} bytes`;
  return undefined;
}

/** Throws "invalid-argument" unless all of them, and at least one, can be served. */
export function checkCapabilities(capabilities: readonly VolumeCapability[]): void {
  if (capabilities.length === 0)
    throw new CsiError("invalid-argument", "Cannot answer a request without volume_capabilities");
  for (const capability of capabilities) {
    const reason = whyNot(capability);
    if (reason !== undefined) throw new CsiError("invalid-argument", `Cannot serve a volume with ${reason}`);
  }
}

/** What the node does with a volume. Throws "invalid-argument". */
export function usageOf(capability: VolumeCapability | undefined): Usage {
  if (capability === undefined)
    throw new CsiError("invalid-argument", "Cannot answer a request without volume_capability");
  checkCapabilities([capability]);
  const readOnly = capability.accessMode?.mode === Mode.SINGLE_NODE_READER_ONLY;
  if (capability.accessType.case !== "mount")
    return { kind: "block", fileSystem: "", mountFlags: [], readOnly };
  const { fsType, mountFlags } = capability.accessType.value;
  return { kind: "mount", fileSystem: fsType || FILE_SYSTEM_DEFAULT, mountFlags, readOnly };
}
