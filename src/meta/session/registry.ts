/**
 * The metadata service as the engine sees it: VolumeRegistry over any key-value store. Rings are looked up by
 * version and kept, since a version never changes; the cluster is followed by one watch.
 */
import type { VolumeId } from "../../base";
import type {
  ClusterView,
  CollectionView,
  CollectionVolume,
  OpenOptions,
  VolumeRegistry,
} from "../../engine";
import type { RingSpec } from "../../ring";
import { MetaError } from "../errors";
import type { KeyValue } from "../kv";
import {
  ClusterWatch,
  DEFAULT_LEASE_TIMES,
  RingAdmin,
  decodeCounter,
  decodeHead,
  decodeSnapshot,
  decodeVolume,
  keys,
  notInitialised,
  parseVolumeKey,
  publicSnapshot,
  type LeaseTimes,
  type MetaContext,
} from "../records";
import { openVolume } from "./open-volume";
import { MetaSnapshotSession } from "./snapshot-session";
import type { MetaVolumeSession } from "./volume-session";

export interface RegistryOptions {
  readonly leaseTimes?: LeaseTimes;
}

export class MetaRegistry implements VolumeRegistry {
  readonly clusterWatch: ClusterWatch;
  readonly #context: MetaContext;
  readonly #rings: RingAdmin;
  readonly #ringCache = new Map<number, RingSpec>();
  readonly #leaseTimes: LeaseTimes;

  private constructor(context: MetaContext, clusterWatch: ClusterWatch, options: RegistryOptions) {
    this.#context = context;
    this.clusterWatch = clusterWatch;
    this.#rings = new RingAdmin(context);
    this.#leaseTimes = options.leaseTimes ?? DEFAULT_LEASE_TIMES;
  }

  /** Throws "not-initialised", "unreachable", "deadline". */
  static async start(context: MetaContext, options: RegistryOptions = {}): Promise<MetaRegistry> {
    return new MetaRegistry(context, await ClusterWatch.start(context), options);
  }

  openVolume(name: string, holder: string, options: OpenOptions = {}): Promise<MetaVolumeSession> {
    return openVolume(this.#context, name, holder, options, this.#leaseTimes);
  }

  openSnapshot(name: string, snapshotName: string, holder: string): Promise<MetaSnapshotSession> {
    return MetaSnapshotSession.open(this.#context, name, snapshotName, holder, this.#leaseTimes);
  }

  async ringAt(version: number): Promise<RingSpec> {
    const { ring } = this.clusterWatch.state;
    const known = ring.version === version ? ring : this.#ringCache.get(version);
    const spec = known ?? (await this.#rings.at(version));
    this.#ringCache.set(version, spec);
    return spec;
  }

  cluster(): ClusterView {
    return this.clusterWatch.state;
  }

  onClusterChange(listener: (view: ClusterView) => void): () => void {
    return this.clusterWatch.onChange(listener);
  }

  async collectionView(): Promise<CollectionView> {
    const { revision, entries } = await this.#context.store.range(keys.volumesPrefix);
    return buildCollectionView(revision, entries, this.#context.store.description);
  }

  /** Sessions end by themselves (detach or abandon them first); the store stays open. */
  close(): void {
    this.clusterWatch.close();
  }
}

/** What R7 needs from one range; records that cannot be read are named, so that nothing they hold is deleted. */
export function buildCollectionView(
  revision: number,
  entries: readonly KeyValue[],
  description: string,
): CollectionView {
  const counter = entries.find((entry) => entry.key === keys.counter);
  if (counter === undefined) throw notInitialised(description);
  const builder = new ViewBuilder();
  const volumeIdLast = builder.read(counter, decodeCounter, undefined) ?? 0;
  const byVolume = new Map<VolumeId, Map<string, KeyValue>>();
  for (const entry of entries) {
    const parsed = parseVolumeKey(entry.key);
    if (parsed === undefined) continue;
    const records = byVolume.get(parsed.volumeId) ?? new Map<string, KeyValue>();
    records.set(parsed.rest, entry);
    byVolume.set(parsed.volumeId, records);
  }
  for (const [volumeId, records] of byVolume) builder.addVolume(volumeId, records);
  return { revision, volumeIdLast, volumes: builder.volumes, damage: builder.damage };
}

class ViewBuilder {
  readonly volumes: CollectionVolume[] = [];
  readonly damage: CollectionView["damage"][number][] = [];

  read<T>(entry: KeyValue, decode: (entry: KeyValue) => T, lineageId: VolumeId | undefined): T | undefined {
    try {
      return decode(entry);
    } catch (error) {
      if (!(error instanceof MetaError)) throw error;
      this.damage.push({ key: entry.key, reason: error.message, lineageId });
      return undefined;
    }
  }

  addVolume(volumeId: VolumeId, records: ReadonlyMap<string, KeyValue>): void {
    const [record, headEntry] = [records.get("record"), records.get("head")];
    // Without its record nobody knows the volume's lineage, so the damage concerns all of them.
    if (record === undefined) return this.#missing(keys.record(volumeId), undefined);
    const volume = this.read(record, decodeVolume, undefined);
    if (volume === undefined) return;
    const { lineageId, ancestorIds } = volume;
    if (headEntry === undefined) return this.#missing(keys.head(volumeId), lineageId);
    const head = this.read(headEntry, (entry) => decodeHead(entry).head, lineageId);
    const snapshots = [...records]
      .filter(([rest]) => rest.startsWith("snapshots/"))
      .map(([, entry]) => this.read(entry, (each) => publicSnapshot(decodeSnapshot(each)), lineageId))
      .filter((snapshot) => snapshot !== undefined);
    if (head === undefined) return;
    this.volumes.push({ volumeId: volume.volumeId, lineageId, ancestorIds, head, snapshots });
  }

  #missing(key: string, lineageId: VolumeId | undefined): void {
    this.damage.push({ key, reason: `Cannot use metadata record ${key}: it is missing`, lineageId });
  }
}
