/**
 * Deletes this peer's dead blocks, by rule R7: own blocks are listed first; then heads, snapshots, clones and the
 * volume-id counter are read at one revision; dead is what no root of its lineage references and what is not young. A
 * map that cannot be read keeps its whole lineage, and the status says so.
 *
 * Memory is bounded by the blocks there are, at a bit each, and by a budget for what is remembered of lineages
 * between collections: beyond it the ones used longest ago are forgotten, and walked anew when their turn comes.
 */
import { assert, BlockKind, type BlockRef, type VolumeId } from "../../base";
import type { NodeReader } from "../inode";
import type { CollectionView, CollectionVolume } from "../ports";
import {
  BlockAccess,
  BlockAges,
  BlockSet,
  isSameLog,
  type LogKey,
  logName,
  type UpkeepPorts,
  walkLocalBlocks,
  WorkerLoop,
} from "../upkeep";
import { Condemned } from "./condemned";
import { Lineage } from "./lineage";

export interface CollectorOptions {
  /** Between collections; they are also asked for by `request`. Default 20 s. */
  readonly intervalMs?: number;
  /** What is remembered of lineages between collections. Default 256 MiB. */
  readonly memoryBytesMax?: number;
  /**
   * Dead INode blocks of living volumes stay so long for peers that collect later, or as long as two collections
   * are apart if that is more. Default 15 s.
   */
  readonly inodeGraceMs?: number;
  /** Where nodes of maps are read; by default from the peers. */
  readonly nodes?: NodeReader;
  /** Told of every lineage that had to be kept whole. */
  readonly onKept?: (lineageId: VolumeId | undefined, reason: string) => void;
}

export interface CollectorStatus {
  readonly state: "idle" | "listing" | "reading" | "deleting" | "stopped";
  readonly runs: number;
  /** Of the last whole collection. */
  readonly finishedWallMs: number;
  readonly tookMs: number;
  readonly blocksListed: number;
  readonly blocksDeleted: number;
  readonly bytesDeleted: number;
  /** Since the start of the process. */
  readonly blocksDeletedTotal: number;
  readonly bytesDeletedTotal: number;
  /** Nodes of maps read since the start. */
  readonly nodesRead: number;
  readonly memoryBytes: number;
  /** Lineages of which nothing could be deleted, and why. */
  readonly kept: readonly { readonly lineageId: number | null; readonly reason: string }[];
  readonly lastError: string | null;
}

const INTERVAL_MS = 20_000;
/** A collection takes at most this share of the time, whatever the interval. */
const DUTY_SHARE = 0.1;
const INTERVAL_MS_MAX = 3_600_000;
const MEMORY_BYTES_MAX = 256 * 1024 * 1024;
const DELETE_BATCH = 1024;
/** Between one and two of these and a collection's interval are less than the minute in which space comes back. */
const INODE_GRACE_MS = 15_000;
/** Even when nothing changed in the metadata: copies of dead blocks may have come from elsewhere. */
const UNCHANGED_MS_MAX = 600_000;

/** What is held here, with how much it takes. */
interface Held {
  readonly blocks: BlockSet;
  count: number;
  readonly tallies: Map<string, LogTally>;
}

interface LogTally {
  readonly key: LogKey;
  bytes: number;
  count: number;
}

interface Kept {
  readonly lineageId: number | null;
  readonly reason: string;
}

export class GarbageCollector {
  private readonly access: BlockAccess;
  private readonly nodes: CountingReader;
  private readonly loop: WorkerLoop;
  private readonly lineages = new Map<number, { readonly lineage: Lineage; readonly memoryBytes: number }>();
  private lineageBytes = 0;
  private readonly condemned: Condemned;
  private state: CollectorStatus["state"] = "idle";
  private runs = 0;
  private finishedWallMs = 0;
  private tookMs = 0;
  private last = { listed: 0, deleted: 0, bytes: 0 };
  private deletedTotal = 0;
  private bytesTotal = 0;
  private kept: Kept[] = [];
  private isRequested = false;
  private seenState = "";
  private seenAtMs = 0;
  private running: Promise<void> | undefined;

  constructor(
    private readonly ports: UpkeepPorts,
    private readonly options: CollectorOptions = {},
  ) {
    this.access = new BlockAccess(ports);
    this.condemned = new Condemned(ports.clock);
    this.nodes = new CountingReader(options.nodes ?? this.access.nodes);
    this.loop = new WorkerLoop({ clock: ports.clock, round: (signal) => this.round(signal) });
  }

  start(): void {
    this.loop.start();
  }

  async stop(): Promise<void> {
    await this.loop.stop();
    // A collection asked for by somebody else: its end is waited for, its failure told to who asked.
    await this.running?.catch(() => undefined);
    this.access.close();
    this.state = "stopped";
  }

  /** Collects as soon as possible, whether or not anything changed. */
  request(): void {
    this.isRequested = true;
    this.loop.wake();
  }

  /** Looks now whether something changed: space is short. */
  hurry(): void {
    if (this.running === undefined) this.loop.wake();
  }

  status(): CollectorStatus {
    return {
      state: this.state,
      runs: this.runs,
      finishedWallMs: this.finishedWallMs,
      tookMs: this.tookMs,
      blocksListed: this.last.listed,
      blocksDeleted: this.last.deleted,
      bytesDeleted: this.last.bytes,
      blocksDeletedTotal: this.deletedTotal,
      bytesDeletedTotal: this.bytesTotal,
      nodesRead: this.nodes.count,
      memoryBytes: this.lineageBytes + this.condemned.memoryBytes,
      kept: this.kept,
      lastError: this.loop.lastError ?? null,
    };
  }

  /** Known to be dead and kept for a while: not worth another copy. */
  isCondemned(ref: BlockRef): boolean {
    return this.condemned.has(ref);
  }

  /** One whole collection now; when one is under way, waits for its end and does another. */
  async collect(signal: AbortSignal): Promise<void> {
    while (this.running !== undefined) await this.running.catch(() => undefined);
    this.running = this.run(signal).finally(() => {
      this.running = undefined;
      this.state = "idle";
    });
    await this.running;
  }

  private async round(signal: AbortSignal): Promise<number> {
    const { intervalMs = INTERVAL_MS } = this.options;
    const { clock, registry } = this.ports;
    const state = fingerprint(await registry.collectionView());
    const isDue = this.condemned.isWaiting || clock.nowMs() - this.seenAtMs >= UNCHANGED_MS_MAX;
    if (!this.isRequested && state === this.seenState && !isDue) return intervalMs;
    this.isRequested = false;
    await this.collect(signal);
    this.seenState = state;
    this.seenAtMs = clock.nowMs();
    return Math.min(INTERVAL_MS_MAX, Math.max(intervalMs, this.tookMs / DUTY_SHARE));
  }

  private async run(signal: AbortSignal): Promise<void> {
    const { clock, registry } = this.ports;
    const startedMs = clock.nowMs();
    this.runs++;
    this.last = { listed: 0, deleted: 0, bytes: 0 };
    this.state = "listing";
    this.condemned.turn(this.graceMs());
    const held = await this.list(signal);
    this.last.listed = held.count;
    // After the listing, never before (R7).
    const view = await registry.collectionView();
    this.kept = [];
    this.state = "reading";
    await this.deleteUnowned(view, held, signal);
    for (const [lineageId, volumes] of lineagesOf(view)) {
      signal.throwIfAborted();
      await this.collectLineage(view, lineageId, volumes, held, signal);
    }
    this.forgetLineages(view);
    this.tookMs = clock.nowMs() - startedMs;
    this.finishedWallMs = clock.wallMs();
  }

  private graceMs(): number {
    const { inodeGraceMs = INODE_GRACE_MS } = this.options;
    return Math.max(inodeGraceMs, (2 * this.tookMs) / DUTY_SHARE);
  }

  private async list(signal: AbortSignal): Promise<Held> {
    const held: Held = { blocks: new BlockSet(), count: 0, tallies: new Map() };
    // Blocks in a row are mostly of one log.
    let tally: LogTally | undefined;
    await walkLocalBlocks(this.ports, signal, ({ ref, lengthBytes }) => {
      held.blocks.add(ref);
      held.count++;
      if (tally === undefined || !isSameLog(tally.key, ref)) tally = tallyOf(held, ref);
      tally.bytes += lengthBytes;
      tally.count++;
    });
    return held;
  }

  /** Blocks of deleted volumes that belong to no lineage that is left. */
  private async deleteUnowned(view: CollectionView, held: Held, signal: AbortSignal): Promise<void> {
    // A damaged record may have named any deleted volume as its ancestor.
    for (const { lineageId, reason } of view.damage) this.keep(lineageId, reason);
    if (view.damage.length > 0) return;
    const owned = new Set<number>(view.volumes.flatMap((volume) => [volume.volumeId, ...volume.ancestorIds]));
    const ages = new BlockAges(view);
    const keys = held.blocks.keys().filter((key) => !owned.has(key.volumeId) && ages.isDeleted(key.volumeId));
    await this.deleteDead(keys, held, [], ages, false, signal);
  }

  private async collectLineage(
    view: CollectionView,
    lineageId: VolumeId,
    volumes: readonly CollectionVolume[],
    held: Held,
    signal: AbortSignal,
  ): Promise<void> {
    if (view.damage.some((damage) => damage.lineageId === undefined || damage.lineageId === lineageId))
      return;
    const members = new Set<number>(volumes.flatMap((volume) => [volume.volumeId, ...volume.ancestorIds]));
    const keys = held.blocks.keys().filter((key) => members.has(key.volumeId));
    // Nothing of it is held here: nothing can be dead, and nothing need be read.
    if (keys.length === 0) return;
    const lineage = await this.upToDate(lineageId, volumes);
    if (lineage === undefined) return;
    await this.deleteDead(keys, held, lineage.sets(), new BlockAges(view), true, signal);
    this.forgetBeyondBudget(lineageId);
  }

  /** The lineage's references as of the view; undefined when its maps cannot be read. */
  private async upToDate(
    lineageId: VolumeId,
    volumes: readonly CollectionVolume[],
  ): Promise<Lineage | undefined> {
    const known = this.lineages.get(lineageId)?.lineage;
    this.forget(lineageId);
    for (const lineage of known === undefined ? [new Lineage()] : [known, new Lineage()])
      try {
        await lineage.update(volumes, this.nodes);
        // The last in the map is the one used last.
        const { memoryBytes } = lineage;
        this.lineages.set(lineageId, { lineage, memoryBytes });
        this.lineageBytes += memoryBytes;
        return lineage;
      } catch (error) {
        // The old root's blocks may be collected elsewhere: then the whole map is walked, and only its failure counts.
        if (lineage === known) continue;
        this.keep(lineageId, error instanceof Error ? error.message : String(error));
      }
    return undefined;
  }

  private keep(lineageId: VolumeId | undefined, reason: string): void {
    this.kept.push({ lineageId: lineageId ?? null, reason });
    this.options.onKept?.(lineageId, reason);
  }

  private async deleteDead(
    keys: readonly LogKey[],
    held: Held,
    referenced: readonly BlockSet[],
    ages: BlockAges,
    hasGrace: boolean,
    signal: AbortSignal,
  ): Promise<void> {
    for (const key of keys) {
      const waits = hasGrace && key.kind === BlockKind.inode;
      const { bytes, count } = tallyOf(held, key);
      let batch: BlockRef[] = [];
      const deleteBatch = async () => {
        signal.throwIfAborted();
        this.state = "deleting";
        await this.ports.local.deleteBlocks(batch);
        this.count(batch.length, Math.round((batch.length * bytes) / count));
        batch = [];
      };
      for (const ref of held.blocks.missing(key, referenced, this.youngFrom(ages, key))) {
        if (waits && !this.condemned.mayGo(ref)) continue;
        batch.push(ref);
        if (batch.length === DELETE_BATCH) await deleteBatch();
      }
      if (batch.length > 0) await deleteBatch();
      this.state = "reading";
    }
  }

  private youngFrom(ages: BlockAges, key: LogKey): number {
    assert(key.kind === BlockKind.data || key.kind === BlockKind.inode, `block kind ${key.kind} is unknown`);
    return ages.youngFromIndex(key.kind, key.volumeId, key.epoch);
  }

  private count(blocks: number, bytes: number): void {
    this.last.deleted += blocks;
    this.last.bytes += bytes;
    this.deletedTotal += blocks;
    this.bytesTotal += bytes;
  }

  /** The one in use stays, however large. */
  private forgetBeyondBudget(inUse: number): void {
    const { memoryBytesMax = MEMORY_BYTES_MAX } = this.options;
    for (const lineageId of this.lineages.keys()) {
      if (this.lineageBytes <= memoryBytesMax) return;
      if (lineageId !== inUse) this.forget(lineageId);
    }
  }

  private forgetLineages(view: CollectionView): void {
    const present = new Set<number>(view.volumes.map((volume) => volume.lineageId));
    for (const lineageId of this.lineages.keys()) if (!present.has(lineageId)) this.forget(lineageId);
  }

  private forget(lineageId: number): void {
    this.lineageBytes -= this.lineages.get(lineageId)?.memoryBytes ?? 0;
    this.lineages.delete(lineageId);
  }
}

/** Counts the nodes that are read: what is unchanged should not be. */
class CountingReader implements NodeReader {
  count = 0;

  constructor(private readonly inner: NodeReader) {}

  readNode(...args: Parameters<NodeReader["readNode"]>): void {
    this.count++;
    this.inner.readNode(...args);
  }
}

function lineagesOf(view: CollectionView): Map<VolumeId, CollectionVolume[]> {
  const lineages = new Map<VolumeId, CollectionVolume[]>();
  for (const volume of view.volumes) {
    const list = lineages.get(volume.lineageId);
    if (list === undefined) lineages.set(volume.lineageId, [volume]);
    else list.push(volume);
  }
  return lineages;
}

function tallyOf({ tallies }: Held, key: LogKey): LogTally {
  const name = logName(key);
  let tally = tallies.get(name);
  if (tally === undefined) {
    // What a walk shows is another block's in a moment.
    const { kind, volumeId, epoch } = key;
    tally = { key: { kind, volumeId, epoch }, bytes: 0, count: 0 };
    tallies.set(name, tally);
  }
  return tally;
}

/** What decides about blocks, as text: equal text, nothing new is dead. */
function fingerprint(view: CollectionView): string {
  const { volumeIdLast, volumes, damage } = view;
  return JSON.stringify([
    volumeIdLast,
    damage.length,
    volumes.map(({ volumeId, head, snapshots }) => [
      volumeId,
      head.root,
      head.epoch,
      head.dataIndex,
      head.inodeIndex,
      snapshots.map(({ root }) => root),
    ]),
  ]);
}
