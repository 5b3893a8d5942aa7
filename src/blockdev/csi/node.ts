/**
 * The CSI node service: volumes on this machine. Staging attaches a volume as a block device and, where a file system
 * is asked for, makes one on a blank device and mounts it at the staging path; publishing shows that (or the device)
 * at a container's path. A volume has one writer: staging one that another node holds fails until that node lets go
 * or its lease ends. Every call may come again; it looks at what is there and does the rest.
 */
import { statSync } from "node:fs";
import { isAbsolute, normalize } from "node:path";
import type { ServiceImpl } from "@connectrpc/connect";
import type { Clock, Timer } from "../../base";
import { type Usage, usageOf } from "./capabilities";
import { CsiError, required } from "./errors";
import { type Node, NodeServiceCapability_RPC_Type as Rpc, VolumeUsage_Unit as Unit } from "./gen/csi_pb";
import {
  bindMount,
  deviceSizeBytes,
  ensureFileSystem,
  fileSystemFigures,
  findMount,
  growBeforeMount,
  growMounted,
  isMountOf,
  mountDevice,
  mountsOf,
  unmountAndRemove,
} from "./node-system";
import { Operations } from "./operations";
import type { DeviceAttacher, VolumeService } from "./ports";
import { type StageRecord, StageRecords } from "./stage-records";

const CAPABILITIES = [
  Rpc.STAGE_UNSTAGE_VOLUME,
  Rpc.GET_VOLUME_STATS,
  Rpc.EXPAND_VOLUME,
  Rpc.SINGLE_NODE_MULTI_WRITER,
];

export interface NodeServiceOptions {
  readonly nodeId: string;
  readonly volumes: VolumeService;
  readonly attacher: DeviceAttacher;
  /** Where it remembers what is staged. */
  readonly stateFolder: string;
  readonly clock: Clock;
  readonly onEvent: (level: "info" | "warn", message: string) => void;
}

/** How soon a device that could not be taken over is tried again: whoever has it mounted waits. */
const RECOVER_AGAIN_MS = 5_000;

/** Absolute, without .. and without a slash at its end, as /proc shows mounts. */
function requiredPath(field: string, path: string): string {
  if (!isAbsolute(required(field, path)))
    throw new CsiError("invalid-argument", `Cannot use ${field} "${path}": it is not absolute`);
  const plain = normalize(path);
  return plain.length > 1 && plain.endsWith("/") ? plain.slice(0, -1) : plain;
}

function sameUsage(one: Usage, other: Usage): boolean {
  return one.kind === other.kind && one.fileSystem === other.fileSystem && one.readOnly === other.readOnly;
}

export class NodeService {
  readonly #options: NodeServiceOptions;
  readonly #operations = new Operations();
  readonly #records: StageRecords;
  readonly #retries = new Map<string, Timer>();
  #closed = false;

  constructor(options: NodeServiceOptions) {
    this.#options = options;
    this.#records = new StageRecords(options.stateFolder);
  }

  /** Takes over what an earlier process staged; forgets what a restart of the machine has ended. */
  async recover(): Promise<void> {
    const { attacher, onEvent } = this.#options;
    for (const record of this.#records.all()) {
      let device: string | undefined;
      try {
        device = await attacher.recover(record.volumeName);
      } catch (error) {
        if (!(error instanceof CsiError)) throw error;
        // Its device waits, for as long as the kernel waits; the others are to be served.
        onEvent("warn", error.message);
        this.#recoverLater(record.volumeName);
        continue;
      }
      if (device === undefined) {
        onEvent("info", `Volume "${record.volumeName}" is not attached any more`);
        this.#records.remove(record.volumeName);
      } else this.#recovered(record, device);
    }
  }

  /** Tries nothing more of its own accord. */
  close(): void {
    this.#closed = true;
    for (const timer of this.#retries.values()) timer.cancel();
    this.#retries.clear();
  }

  #recovered(record: StageRecord, device: string): void {
    this.#options.onEvent("info", `Took volume "${record.volumeName}" over at ${device}`);
    if (device !== record.device) this.#records.put({ ...record, device });
  }

  #recoverLater(volumeName: string): void {
    if (this.#closed) return;
    const timer = this.#options.clock.schedule(RECOVER_AGAIN_MS, () => void this.#recoverAgain(volumeName));
    this.#retries.set(volumeName, timer);
  }

  async #recoverAgain(volumeName: string): Promise<void> {
    this.#retries.delete(volumeName);
    const { attacher, onEvent } = this.#options;
    try {
      await this.#operations.run(volumeName, async () => {
        const record = this.#records.get(volumeName);
        // Unstaged meanwhile.
        if (record === undefined) return;
        const device = await attacher.recover(volumeName);
        if (device !== undefined) this.#recovered(record, device);
        // The record stays: what was mounted of it is still to be unstaged.
        else
          onEvent("warn", `Volume "${volumeName}" is not attached any more: the kernel gave its device up`);
      });
    } catch (error) {
      onEvent("warn", error instanceof Error ? error.message : String(error));
      this.#recoverLater(volumeName);
    }
  }

  implementation(): ServiceImpl<typeof Node> {
    return {
      nodeGetCapabilities: () => ({
        capabilities: CAPABILITIES.map((type) => ({ type: { case: "rpc" as const, value: { type } } })),
      }),
      nodeGetInfo: () => ({ nodeId: this.#options.nodeId }),
      nodeStageVolume: async (request) => {
        const name = required("volume_id", request.volumeId);
        const path = requiredPath("staging_target_path", request.stagingTargetPath);
        const usage = usageOf(request.volumeCapability);
        await this.#operations.run(name, () => this.#stage(name, path, usage));
        return {};
      },
      nodeUnstageVolume: async (request) => {
        const name = required("volume_id", request.volumeId);
        const path = requiredPath("staging_target_path", request.stagingTargetPath);
        await this.#operations.run(name, () => this.#unstage(name, path));
        return {};
      },
      nodePublishVolume: async (request) => {
        const name = required("volume_id", request.volumeId);
        const target = requiredPath("target_path", request.targetPath);
        const usage = usageOf(request.volumeCapability);
        const staging = requiredPath("staging_target_path", request.stagingTargetPath);
        const readOnly = request.readonly || usage.readOnly;
        await this.#operations.run(name, () => this.#publish(name, staging, target, usage, readOnly));
        return {};
      },
      nodeUnpublishVolume: async (request) => {
        const name = required("volume_id", request.volumeId);
        const target = requiredPath("target_path", request.targetPath);
        await this.#operations.run(name, () => unmountAndRemove(target));
        return {};
      },
      nodeGetVolumeStats: (request) =>
        this.#statistics(
          required("volume_id", request.volumeId),
          requiredPath("volume_path", request.volumePath),
        ),
      nodeExpandVolume: async (request) => {
        const name = required("volume_id", request.volumeId);
        requiredPath("volume_path", request.volumePath);
        const record = this.#staged(name);
        const sizeBytes = await this.#operations.run(name, () => this.#expand(record));
        return { capacityBytes: BigInt(sizeBytes) };
      },
    };
  }

  async #stage(name: string, path: string, usage: Usage): Promise<void> {
    const { volumes, attacher } = this.#options;
    const before = this.#records.get(name);
    if (before !== undefined && (before.stagingPath !== path || !sameUsage(before.usage, usage)))
      throw new CsiError(
        "already-exists",
        `Cannot stage volume "${name}" at ${path}: it is staged at ${before.stagingPath} as ${before.usage.kind} ${before.usage.fileSystem}`,
      );
    if (before === undefined && (await volumes.findVolume(name)) === undefined)
      throw new CsiError("not-found", `Cannot stage volume "${name}": there is none of that name`);
    const device = await attacher.attach(name);
    // Before anything is mounted: whoever restarts must find the device.
    this.#records.put({ volumeName: name, stagingPath: path, device, usage });
    if (usage.kind === "block") return;
    const there = findMount(path);
    if (there !== undefined && isMountOf(there, device)) return;
    if (there !== undefined)
      throw new CsiError(
        "failed-precondition",
        `Cannot stage volume "${name}" at ${path}: ${there.source} is mounted there`,
      );
    await ensureFileSystem(device, usage.fileSystem);
    // It may have been made when the volume was smaller.
    await growBeforeMount(usage.fileSystem, device);
    await mountDevice(device, path, usage.fileSystem, usage.mountFlags);
    if (usage.fileSystem === "xfs" || usage.fileSystem === "btrfs")
      await growMounted(usage.fileSystem, device, path);
  }

  async #unstage(name: string, path: string): Promise<void> {
    const record = this.#records.get(name);
    if (record !== undefined && record.stagingPath !== path)
      throw new CsiError(
        "failed-precondition",
        `Cannot unstage volume "${name}" from ${path}: it is staged at ${record.stagingPath}`,
      );
    if (record === undefined) return;
    const published = mountsOf(record.device).find((mount) => mount.path !== path);
    if (published !== undefined)
      throw new CsiError(
        "failed-precondition",
        `Cannot unstage volume "${name}": it is still at ${published.path}; unpublish it there first`,
      );
    // The folder itself is the orchestrator's.
    if (record.usage.kind === "mount" && findMount(path) !== undefined) await unmountAndRemove(path);
    await this.#options.attacher.detach(name);
    this.#records.remove(name);
  }

  async #publish(
    name: string,
    staging: string,
    target: string,
    usage: Usage,
    readOnly: boolean,
  ): Promise<void> {
    const record = this.#staged(name);
    if (record.stagingPath !== staging)
      throw new CsiError(
        "failed-precondition",
        `Cannot publish volume "${name}" from ${staging}: it is staged at ${record.stagingPath}`,
      );
    if (record.usage.kind !== usage.kind)
      throw new CsiError(
        "invalid-argument",
        `Cannot publish volume "${name}" as ${usage.kind}: it is staged as ${record.usage.kind}`,
      );
    const there = findMount(target);
    if (there !== undefined) {
      if (there.readOnly === readOnly && isMountOf(there, record.device)) return;
      throw new CsiError(
        "already-exists",
        `Cannot publish volume "${name}" at ${target}: ${there.source} is there, ${there.readOnly ? "read-only" : "to be written"}`,
      );
    }
    await bindMount(usage.kind === "mount" ? staging : record.device, target, readOnly);
  }

  async #statistics(name: string, path: string) {
    const record = this.#records.get(name);
    const found = statSync(path, { throwIfNoEntry: false });
    const mount = findMount(path);
    if (
      record === undefined ||
      found === undefined ||
      mount === undefined ||
      !isMountOf(mount, record.device)
    )
      throw new CsiError("not-found", `Cannot tell of volume "${name}": it is not at ${path}`);
    if (record.usage.kind === "block")
      return { usage: [{ unit: Unit.BYTES, total: BigInt(await deviceSizeBytes(record.device)) }] };
    const figures = fileSystemFigures(path);
    return {
      usage: [
        {
          unit: Unit.BYTES,
          total: BigInt(figures.totalBytes),
          available: BigInt(figures.availableBytes),
          used: BigInt(figures.usedBytes),
        },
        {
          unit: Unit.INODES,
          total: BigInt(figures.totalInodes),
          available: BigInt(figures.freeInodes),
          used: BigInt(figures.totalInodes - figures.freeInodes),
        },
      ],
    };
  }

  async #expand(record: StageRecord): Promise<number> {
    const { volumeName, device, stagingPath, usage } = record;
    await this.#options.attacher.refreshSize(volumeName);
    if (usage.kind === "mount" && !usage.readOnly) await growMounted(usage.fileSystem, device, stagingPath);
    return deviceSizeBytes(device);
  }

  #staged(name: string): StageRecord {
    const record = this.#records.get(name);
    if (record === undefined)
      throw new CsiError("not-found", `Cannot use volume "${name}" on this node: it is not staged here`);
    return record;
  }
}
