/**
 * The CSI controller service: volumes and snapshots of the whole cluster, on any node. Every call may come again after
 * an answer that was lost, and then finds its work done: names are what the orchestrator chose, and metadata holds a
 * name once.
 */
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { ServiceImpl } from "@connectrpc/connect";
import { checkCapabilities, whyNot } from "./capabilities";
import { CsiError, required } from "./errors";
import {
  type CapacityRange,
  type Controller,
  ControllerServiceCapability_RPC_Type as Rpc,
  type CreateVolumeRequest,
} from "./gen/csi_pb";
import { Operations } from "./operations";
import { pageOf } from "./pages";
import {
  type CsiSnapshot,
  type CsiVolume,
  VOLUME_BYTES_DEFAULT,
  VOLUME_BYTES_MAX,
  VOLUME_BYTES_MIN,
  VOLUME_UNIT_BYTES,
  type VolumeService,
} from "./ports";

const CAPABILITIES = [
  Rpc.CREATE_DELETE_VOLUME,
  Rpc.LIST_VOLUMES,
  Rpc.GET_CAPACITY,
  Rpc.CREATE_DELETE_SNAPSHOT,
  Rpc.LIST_SNAPSHOTS,
  Rpc.CLONE_VOLUME,
  Rpc.EXPAND_VOLUME,
  Rpc.SINGLE_NODE_MULTI_WRITER,
];
/** Kubernetes' own parameters in storage classes begin so, and are not for drivers to judge. */
const FOREIGN_PARAMETER = "csi.storage.k8s.io/";

/** What a size request asks for; `limitBytes` is Infinity where none was given. */
interface SizeRange {
  readonly requiredBytes: number;
  readonly limitBytes: number;
}

function sizeRange(range: CapacityRange | undefined): SizeRange {
  const requiredBytes = Number(range?.requiredBytes ?? 0n);
  const limitBytes = Number(range?.limitBytes ?? 0n);
  if (requiredBytes < 0 || limitBytes < 0)
    throw new CsiError("invalid-argument", "Cannot use a capacity range with negative bytes");
  if (limitBytes > 0 && limitBytes < requiredBytes)
    throw new CsiError(
      "invalid-argument",
      `Cannot give at least ${requiredBytes} and at most ${limitBytes} bytes`,
    );
  return { requiredBytes, limitBytes: limitBytes === 0 ? Number.POSITIVE_INFINITY : limitBytes };
}

/** The size to make. Throws "out-of-range". */
function chooseSize(range: SizeRange, smallestBytes: number): number {
  const { requiredBytes, limitBytes } = range;
  const wanted = requiredBytes === 0 ? Math.min(VOLUME_BYTES_DEFAULT, limitBytes) : requiredBytes;
  const bytes = Math.max(smallestBytes, VOLUME_BYTES_MIN, wanted);
  const up = Math.ceil(bytes / VOLUME_UNIT_BYTES) * VOLUME_UNIT_BYTES;
  const down = Math.floor(bytes / VOLUME_UNIT_BYTES) * VOLUME_UNIT_BYTES;
  const sizeBytes = up > limitBytes && requiredBytes === 0 ? down : up;
  if (sizeBytes > VOLUME_BYTES_MAX || sizeBytes > limitBytes || sizeBytes < smallestBytes)
    throw new CsiError(
      "out-of-range",
      `Cannot give ${requiredBytes} bytes: a volume has ${Math.max(smallestBytes, VOLUME_BYTES_MIN)} to ${Math.min(limitBytes, VOLUME_BYTES_MAX)}, in steps of ${VOLUME_UNIT_BYTES}`,
    );
  return sizeBytes;
}

function fits(volume: CsiVolume, range: SizeRange): boolean {
  return volume.sizeBytes >= range.requiredBytes && volume.sizeBytes <= range.limitBytes;
}

function parseSnapshotId(id: string): { readonly volumeName: string; readonly name: string } | undefined {
  const at = id.indexOf("@");
  return at <= 0 || at === id.length - 1
    ? undefined
    : { volumeName: id.slice(0, at), name: id.slice(at + 1) };
}

function snapshotMessage(snapshot: CsiSnapshot) {
  return {
    sizeBytes: BigInt(snapshot.sizeBytes),
    snapshotId: `${snapshot.volumeName}@${snapshot.name}`,
    sourceVolumeId: snapshot.volumeName,
    creationTime: timestampFromMs(snapshot.createdMs),
    readyToUse: true,
  };
}

type Source = CreateVolumeRequest["volumeContentSource"];

function volumeMessage(volume: CsiVolume, source?: Source) {
  return {
    capacityBytes: BigInt(volume.sizeBytes),
    volumeId: volume.name,
    ...(source === undefined ? {} : { contentSource: source }),
  };
}

export class ControllerService {
  readonly #operations = new Operations();

  constructor(private readonly volumes: VolumeService) {}

  implementation(): ServiceImpl<typeof Controller> {
    return {
      controllerGetCapabilities: () => ({
        capabilities: CAPABILITIES.map((type) => ({ type: { case: "rpc" as const, value: { type } } })),
      }),
      createVolume: async (request) => {
        const name = required("name", request.name);
        checkCapabilities(request.volumeCapabilities);
        for (const parameter of Object.keys(request.parameters))
          if (!parameter.startsWith(FOREIGN_PARAMETER))
            throw new CsiError("invalid-argument", `Cannot use parameter "${parameter}": torus has none`);
        const volume = await this.#operations.run(name, () => this.#createVolume(name, request));
        return { volume: volumeMessage(volume, request.volumeContentSource) };
      },
      deleteVolume: async ({ volumeId }) => {
        const name = required("volume_id", volumeId);
        await this.#operations.run(name, () => this.#unlessGone(this.volumes.deleteVolume(name)));
        return {};
      },
      validateVolumeCapabilities: async (request) => {
        await this.#existing(required("volume_id", request.volumeId));
        if (request.volumeCapabilities.length === 0)
          throw new CsiError("invalid-argument", "Cannot answer a request without volume_capabilities");
        const reason = request.volumeCapabilities.map(whyNot).find((one) => one !== undefined);
        if (reason !== undefined) return { message: `torus cannot serve ${reason}` };
        const { volumeCapabilities, volumeContext, parameters } = request;
        return { confirmed: { volumeCapabilities, volumeContext, parameters } };
      },
      listVolumes: async ({ startingToken, maxEntries }) => {
        const page = pageOf(await this.volumes.listVolumes(), (one) => one.name, startingToken, maxEntries);
        return {
          entries: page.entries.map((volume) => ({
            volume: volumeMessage(volume),
          })),
          nextToken: page.nextToken,
        };
      },
      getCapacity: async ({ volumeCapabilities }) => {
        const possible = volumeCapabilities.every((one) => whyNot(one) === undefined);
        return {
          availableCapacity: possible ? BigInt(Math.floor(await this.volumes.availableBytes())) : 0n,
          maximumVolumeSize: BigInt(VOLUME_BYTES_MAX),
          minimumVolumeSize: BigInt(VOLUME_BYTES_MIN),
        };
      },
      createSnapshot: async (request) => {
        const volumeName = required("source_volume_id", request.sourceVolumeId);
        const name = required("name", request.name);
        const made = await this.#operations.run(volumeName, () => this.#createSnapshot(volumeName, name));
        return { snapshot: snapshotMessage(made) };
      },
      deleteSnapshot: async ({ snapshotId }) => {
        const id = parseSnapshotId(required("snapshot_id", snapshotId));
        // An id that no snapshot can have is one that is gone.
        if (id !== undefined)
          await this.#operations.run(id.volumeName, () =>
            this.#unlessGone(this.volumes.deleteSnapshot(id.volumeName, id.name)),
          );
        return {};
      },
      listSnapshots: async (request) => {
        const found = await this.#snapshots(request.sourceVolumeId, request.snapshotId);
        const keyOf = (one: CsiSnapshot) => `${one.volumeName}@${one.name}`;
        const sorted = found.toSorted((one, other) => (keyOf(one) < keyOf(other) ? -1 : 1));
        const page = pageOf(sorted, keyOf, request.startingToken, request.maxEntries);
        return {
          entries: page.entries.map((one) => ({ snapshot: snapshotMessage(one) })),
          nextToken: page.nextToken,
        };
      },
      controllerExpandVolume: async (request) => {
        const name = required("volume_id", request.volumeId);
        if (request.capacityRange === undefined)
          throw new CsiError("invalid-argument", "Cannot answer a request without capacity_range");
        const range = sizeRange(request.capacityRange);
        const volume = await this.#operations.run(name, async () => {
          const found = await this.#existing(name);
          if (found.sizeBytes >= range.requiredBytes && found.sizeBytes <= range.limitBytes) return found;
          return this.volumes.resizeVolume(name, chooseSize(range, found.sizeBytes));
        });
        return { capacityBytes: BigInt(volume.sizeBytes), nodeExpansionRequired: true };
      },
    };
  }

  async #createVolume(name: string, request: CreateVolumeRequest): Promise<CsiVolume> {
    const range = sizeRange(request.capacityRange);
    const source = request.volumeContentSource?.type;
    if (request.volumeContentSource !== undefined && source?.case === undefined)
      throw new CsiError(
        "invalid-argument",
        "Cannot use a content source that is neither snapshot nor volume",
      );
    if (source?.case === "volume") return this.#cloneVolume(name, source.value.volumeId, range);
    const snapshot =
      source?.case === "snapshot" ? await this.#existingSnapshot(source.value.snapshotId) : undefined;
    return this.#createFrom(name, snapshot, range);
  }

  async #createFrom(name: string, snapshot: CsiSnapshot | undefined, range: SizeRange): Promise<CsiVolume> {
    const sizeBytes = chooseSize(range, snapshot?.sizeBytes ?? 0);
    const existing = await this.volumes.findVolume(name);
    if (existing !== undefined && !(await this.volumes.isMadeFrom(name, snapshot)))
      throw new CsiError("already-exists", `Cannot create volume "${name}": there is one of other content`);
    const volume =
      existing ??
      (snapshot === undefined
        ? await this.volumes.createVolume(name, sizeBytes)
        : await this.volumes.cloneSnapshot(snapshot.volumeName, snapshot.name, name));
    if (fits(volume, range)) return volume;
    // A clone begins with its snapshot's size; an earlier call may have ended before it was grown.
    if (snapshot !== undefined && volume.sizeBytes === snapshot.sizeBytes && volume.sizeBytes < sizeBytes)
      return this.volumes.resizeVolume(name, sizeBytes);
    throw new CsiError(
      "already-exists",
      `Cannot create volume "${name}": there is one of ${volume.sizeBytes} bytes`,
    );
  }

  /** By a snapshot that lives only until the clone is there. */
  async #cloneVolume(name: string, sourceName: string, range: SizeRange): Promise<CsiVolume> {
    const source = await this.#existing(required("the source's volume_id", sourceName));
    const existing = await this.volumes.findVolume(name);
    if (existing !== undefined) {
      if (fits(existing, range) && existing.sizeBytes >= source.sizeBytes) return existing;
      if (existing.sizeBytes !== source.sizeBytes)
        throw new CsiError(
          "already-exists",
          `Cannot create volume "${name}": there is one of ${existing.sizeBytes} bytes`,
        );
      return this.volumes.resizeVolume(name, chooseSize(range, source.sizeBytes));
    }
    // Refuses what cannot be before anything is made.
    chooseSize(range, source.sizeBytes);
    const snapshotName = `csi-clone-${name}`.slice(0, 200);
    const made = await this.#createSnapshot(sourceName, snapshotName);
    try {
      return await this.#createFrom(name, made, range);
    } finally {
      await this.#unlessGone(this.volumes.deleteSnapshot(sourceName, snapshotName));
    }
  }

  async #createSnapshot(volumeName: string, name: string): Promise<CsiSnapshot> {
    // The name is unique among the snapshots of all volumes for whoever chose it.
    const holder = (await this.#allSnapshots()).find((one) => one.name === name);
    if (holder?.volumeName === volumeName) return holder;
    if (holder !== undefined)
      throw new CsiError(
        "already-exists",
        `Cannot make snapshot "${name}" of volume "${volumeName}": volume "${holder.volumeName}" has one of that name`,
      );
    await this.#existing(volumeName);
    return this.volumes.createSnapshot(volumeName, name);
  }

  async #snapshots(volumeName: string, snapshotId: string): Promise<readonly CsiSnapshot[]> {
    if (snapshotId === "")
      return volumeName === "" ? this.#allSnapshots() : this.volumes.listSnapshots(volumeName);
    const id = parseSnapshotId(snapshotId);
    if (id === undefined || (volumeName !== "" && volumeName !== id.volumeName)) return [];
    return (await this.volumes.listSnapshots(id.volumeName)).filter((one) => one.name === id.name);
  }

  async #allSnapshots(): Promise<readonly CsiSnapshot[]> {
    const found: CsiSnapshot[] = [];
    for (const volume of await this.volumes.listVolumes())
      if (volume.snapshotCount > 0) found.push(...(await this.volumes.listSnapshots(volume.name)));
    return found;
  }

  async #existing(name: string): Promise<CsiVolume> {
    const volume = await this.volumes.findVolume(name);
    if (volume === undefined) throw new CsiError("not-found", `Cannot find volume "${name}"`);
    return volume;
  }

  async #existingSnapshot(snapshotId: string): Promise<CsiSnapshot> {
    const id = parseSnapshotId(required("snapshot_id", snapshotId));
    const found = id === undefined ? [] : await this.volumes.listSnapshots(id.volumeName);
    const snapshot = found.find((one) => one.name === id?.name);
    if (snapshot === undefined) throw new CsiError("not-found", `Cannot find snapshot "${snapshotId}"`);
    return snapshot;
  }

  /** What is to be deleted may be gone. */
  async #unlessGone(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      if (!(error instanceof CsiError && error.code === "not-found")) throw error;
    }
  }
}
