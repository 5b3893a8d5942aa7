/**
 * The map of an open volume: two copy-on-write radix trees (page -> location, block -> live pages) and the epoch
 * table, kept consistent with each other by every change. See types.ts for what callers may rely on.
 *
 * Invariants: the live pages of a block are the entries of the map that name its lsn; a block without live pages
 * has no entry; an epoch's live blocks are the entries of the use tree in its range of lsns.
 */
import { assert, type BlockRef, type Epoch, type VolumeId } from "../../base";
import { VOLUME_PAGE_COUNT_MAX } from "../block";
import type { NodePointer } from "../head";
import { StorageStatus } from "../ports";
import { type CheckpointPlan, type FrozenTree, writeCheckpoint } from "./checkpoint";
import { decodeNode, encodeNode, MAP_TREE, USE_TREE } from "./codec";
import { decodeChunk, EpochTable } from "./epochs";
import { type AnyTree, NodeLoader } from "./loading";
import {
  FAN_OUT,
  Interior,
  LEAF_ENTRIES,
  type Leaf,
  MapLeaf,
  type Place,
  type TreeNode,
  UseLeaf,
} from "./nodes";
import { readNode } from "./reading";
import { Residents } from "./residents";
import { REWRITE_BYTES_MIN, Rewrite } from "./rewrite";
import { decodeRoot, type RootRecord } from "./root";
import { RadixTree, type Stamps } from "./tree";
import {
  type BlockUse,
  type FrozenMap,
  type InodeSink,
  LOAD_PAGE_COUNT_MAX,
  type Loaded,
  lsnOf,
  type PageLocation,
  type PageMap,
  type PageMapOptions,
  type PageMapStatistics,
  SCAN_LEAF_COUNT_MAX,
  SLOTS_PER_LSN,
} from "./types";

const LIVE_MASK = 0xffff;

class Frozen implements FrozenMap {
  private used = false;

  constructor(
    readonly stamp: number,
    private readonly plan: CheckpointPlan,
    private readonly written: (lastIndex: number) => void,
  ) {}

  async write(sink: InodeSink): Promise<NodePointer> {
    assert(!this.used, "a frozen map is written once");
    this.used = true;
    const { root, lastIndex } = await writeCheckpoint(this.plan, sink);
    this.written(lastIndex);
    return root;
  }
}

class VolumePageMap implements PageMap {
  sizeBytes = 0;
  private readonly stamps: Stamps = { current: 1, committed: 0 };
  private readonly residents = new Residents();
  private readonly map: RadixTree<MapLeaf>;
  private readonly use: RadixTree<UseLeaf>;
  private readonly epochs: EpochTable;
  private readonly loader: NodeLoader;
  private readonly rewrite: Rewrite;
  private frozen: Frozen | undefined;
  private livePages = 0;
  private liveBlocks = 0;
  private deadSlots = 0;
  private readonly scanned: BlockUse = { lsn: 0, livePages: 0, slotCount: 0 };

  constructor(private readonly options: PageMapOptions) {
    this.map = new RadixTree(MAP_TREE, this.stamps, this.residents, new MapLeaf(-1, 0));
    this.use = new RadixTree(USE_TREE, this.stamps, this.residents, new UseLeaf(-1, 0));
    this.epochs = new EpochTable(this.stamps);
    this.loader = new NodeLoader(options.reader, () => this.keepBudget());
    this.rewrite = new Rewrite(this.map, this.use, this.loader, options.rewriteBytesMin ?? REWRITE_BYTES_MIN);
  }

  // ---- epochs ----------------------------------------------------------------------------------------------------

  beginEpoch(volumeId: VolumeId, epoch: Epoch): void {
    this.epochs.begin(volumeId, epoch);
  }

  claimLsn(index: number): number {
    return this.epochs.claim(index);
  }

  refOf(lsn: number): BlockRef | undefined {
    return this.epochs.refOf(lsn);
  }

  // ---- loading ---------------------------------------------------------------------------------------------------

  ensureLoaded(firstPage: number, pageCount: number, done: Loaded): boolean {
    assertRange(firstPage, pageCount);
    // The most frequent case by far, one leaf that is there, without a closure.
    const key = Math.floor(firstPage / LEAF_ENTRIES);
    if ((firstPage % LEAF_ENTRIES) + pageCount <= LEAF_ENTRIES && this.map.find(key) !== null) return true;
    return this.loader.request((want, usedAt) => {
      this.walkMap(firstPage, pageCount, want, usedAt);
    }, done);
  }

  ensureWritable(firstPage: number, pageCount: number, lsn: number, done: Loaded): boolean {
    assertRange(firstPage, pageCount);
    if (this.isWritable(firstPage, pageCount, lsn)) return true;
    return this.loader.request((want, usedAt) => {
      if (lsn > 0 && this.use.missing(Math.floor(lsn / LEAF_ENTRIES), usedAt) && !want(this.use)) return;
      if (this.walkMap(firstPage, pageCount, want, usedAt)) this.walkUses(firstPage, pageCount, want, usedAt);
    }, done);
  }

  skipHoles(firstPage: number, endPage: number): number {
    let page = firstPage;
    while (page < endPage) {
      const found = this.map.seek(Math.floor(page / LEAF_ENTRIES), 0);
      if (found === "end") return endPage;
      if (found === "missing") {
        const span = LEAF_ENTRIES * FAN_OUT ** this.map.lacking.level;
        return Math.min(endPage, Math.max(page, this.map.lacking.key * span));
      }
      const start = this.map.seekKey * LEAF_ENTRIES;
      page = Math.max(page, start);
      const leaf = this.map.find(this.map.seekKey);
      if (leaf === null) return Math.min(endPage, page);
      while (page < start + LEAF_ENTRIES && leaf.values[page - start] === 0) page += 1;
      if (page < start + LEAF_ENTRIES) return Math.min(endPage, page);
    }
    return endPage;
  }

  private isWritable(firstPage: number, pageCount: number, lsn: number): boolean {
    const key = Math.floor(firstPage / LEAF_ENTRIES);
    const start = firstPage % LEAF_ENTRIES;
    if (start + pageCount > LEAF_ENTRIES) return false;
    const leaf = this.map.find(key);
    if (leaf === null) return false;
    let useKey = lsn > 0 ? Math.floor(lsn / LEAF_ENTRIES) : -1;
    if (lsn > 0 && this.use.find(useKey) === null) return false;
    for (let entry = start; entry < start + pageCount; entry += 1) {
      const location = leaf.values[entry] as number;
      if (location === 0) continue;
      const wantedKey = Math.floor(location / (SLOTS_PER_LSN * LEAF_ENTRIES));
      if (wantedKey !== useKey && this.use.find(wantedKey) === null) return false;
      useKey = wantedKey;
    }
    return true;
  }

  /** Returns whether everything is there. */
  private walkMap(
    firstPage: number,
    pageCount: number,
    want: (tree: AnyTree) => boolean,
    usedAt: number,
  ): boolean {
    const last = Math.floor((firstPage + pageCount - 1) / LEAF_ENTRIES);
    let complete = true;
    for (let key = Math.floor(firstPage / LEAF_ENTRIES); key <= last; key += 1) {
      if (!this.map.missing(key, usedAt)) continue;
      complete = false;
      if (!want(this.map)) return false;
    }
    return complete;
  }

  /** The counts of the blocks that the range maps to now. */
  private walkUses(
    firstPage: number,
    pageCount: number,
    want: (tree: AnyTree) => boolean,
    usedAt: number,
  ): void {
    let recentKey = -1;
    for (let page = firstPage; page < firstPage + pageCount; page += 1) {
      const location = this.locationOf(page);
      if (location === 0) continue;
      const key = Math.floor(location / (SLOTS_PER_LSN * LEAF_ENTRIES));
      if (key === recentKey) continue;
      recentKey = key;
      if (this.use.missing(key, usedAt) && !want(this.use)) return;
    }
  }

  private keepBudget(): void {
    if (this.residents.bytes <= this.options.residentBytesMax) return;
    const oldest = this.loader.oldestSerial;
    this.residents.sweep(this.options.residentBytesMax, (node) => this.evict(node, oldest));
  }

  private evict(node: TreeNode, oldestSerial: number): boolean {
    const tree: AnyTree = this.treeOf(node);
    if (tree.isDirty(node) || node.usedAt >= oldestSerial) return false;
    if (node instanceof Interior && (node.residentCount > 0 || node.level === tree.topLevel)) return false;
    tree.evict(node);
    return true;
  }

  private treeOf(node: TreeNode): AnyTree {
    if (node instanceof MapLeaf) return this.map;
    if (node instanceof UseLeaf) return this.use;
    return node.isUse ? this.use : this.map;
  }

  // ---- pages -----------------------------------------------------------------------------------------------------

  locationOf(page: number): PageLocation {
    const leaf = this.map.find(Math.floor(page / LEAF_ENTRIES));
    assert(leaf !== null, "a page is looked up before its leaf was loaded");
    return leaf.values[page % LEAF_ENTRIES] as number;
  }

  runLength(page: number, endPage: number): number {
    const first = this.locationOf(page);
    const step = first === 0 ? 0 : 1;
    let length = 1;
    while (page + length < endPage) {
      const leaf = this.map.find(Math.floor((page + length) / LEAF_ENTRIES));
      if (leaf === null) return length;
      if (leaf.values[(page + length) % LEAF_ENTRIES] !== first + length * step) return length;
      length += 1;
    }
    return length;
  }

  setRange(firstPage: number, pageCount: number, location: PageLocation): void {
    assertRange(firstPage, pageCount);
    assert(location >= SLOTS_PER_LSN, "pages are mapped to a block");
    this.replaceRange(firstPage, pageCount, location, 1);
    this.addPages(lsnOf(location), pageCount, (location % SLOTS_PER_LSN) + pageCount);
  }

  holeRange(firstPage: number, pageCount: number): void {
    assertRange(firstPage, pageCount);
    this.replaceRange(firstPage, pageCount, 0, 0);
  }

  /** Writes location, location + step, ... into the map and takes the pages from the blocks they were in. */
  private replaceRange(firstPage: number, pageCount: number, location: number, step: 0 | 1): void {
    let next = location;
    for (let page = firstPage, end = firstPage + pageCount; page < end; ) {
      const key = Math.floor(page / LEAF_ENTRIES);
      const start = page % LEAF_ENTRIES;
      const stop = Math.min(LEAF_ENTRIES, start + end - page);
      if (step === 1 || this.map.find(key) !== this.map.holeLeaf)
        this.replaceInLeaf(key, start, stop, next, step);
      next += step * (stop - start);
      page += stop - start;
    }
  }

  private replaceInLeaf(key: number, start: number, stop: number, location: number, step: 0 | 1): void {
    const leaf = this.map.writable(key);
    const { values } = leaf;
    let next = location;
    let goneLsn = 0;
    let goneCount = 0;
    for (let entry = start; entry < stop; entry += 1) {
      const old = values[entry] as number;
      values[entry] = next;
      next += step;
      if (old === 0) {
        leaf.count += step;
        continue;
      }
      leaf.count -= 1 - step;
      const lsn = Math.floor(old / SLOTS_PER_LSN);
      if (lsn !== goneLsn && goneCount > 0) {
        this.takePages(goneLsn, goneCount);
        goneCount = 0;
      }
      goneLsn = lsn;
      goneCount += 1;
    }
    if (goneCount > 0) this.takePages(goneLsn, goneCount);
    if (leaf.count === 0) this.map.remove(key);
  }

  private addPages(lsn: number, pageCount: number, slotEnd: number): void {
    const leaf = this.use.writable(Math.floor(lsn / LEAF_ENTRIES));
    const entry = lsn % LEAF_ENTRIES;
    const value = leaf.values[entry] as number;
    const live = value & LIVE_MASK;
    const slots = value >>> 16;
    const slotsNow = Math.max(slots, slotEnd);
    if (live + pageCount > slotsNow)
      assert(false, `block of lsn ${lsn} gets more live pages than it has slots`);
    leaf.values[entry] = (slotsNow << 16) | (live + pageCount);
    this.livePages += pageCount;
    this.deadSlots += slotsNow - slots - pageCount;
    if (live > 0) return;
    leaf.count += 1;
    this.liveBlocks += 1;
    this.epochs.addLiveBlock(lsn, 1);
  }

  private takePages(lsn: number, pageCount: number): void {
    const key = Math.floor(lsn / LEAF_ENTRIES);
    const leaf = this.use.writable(key);
    const entry = lsn % LEAF_ENTRIES;
    const value = leaf.values[entry] as number;
    const live = value & LIVE_MASK;
    const slots = value >>> 16;
    if (live < pageCount) assert(false, `block of lsn ${lsn} loses more pages than it has`);
    this.livePages -= pageCount;
    if (live > pageCount) {
      leaf.values[entry] = value - pageCount;
      this.deadSlots += pageCount;
      return;
    }
    leaf.values[entry] = 0;
    leaf.count -= 1;
    this.deadSlots -= slots - live;
    this.liveBlocks -= 1;
    this.epochs.addLiveBlock(lsn, -1);
    if (leaf.count === 0) this.use.remove(key);
  }

  // ---- uses ------------------------------------------------------------------------------------------------------

  livePagesOf(lsn: number): number {
    const leaf = this.use.find(Math.floor(lsn / LEAF_ENTRIES));
    return leaf === null ? -1 : (leaf.values[lsn % LEAF_ENTRIES] as number) & LIVE_MASK;
  }

  scanBlocks(
    fromLsn: number,
    visit: (use: BlockUse) => void,
    done: (status: StorageStatus, nextLsn: number) => void,
  ): void {
    this.scanOn(Math.max(1, fromLsn), SCAN_LEAF_COUNT_MAX, visit, done);
  }

  private scanOn(
    fromLsn: number,
    leavesLeft: number,
    visit: (use: BlockUse) => void,
    done: (status: StorageStatus, nextLsn: number) => void,
  ): void {
    let next = fromLsn;
    for (let left = leavesLeft; left > 0; left -= 1) {
      const needs = (want: (tree: AnyTree) => boolean, usedAt: number) => {
        const found = this.use.seek(Math.floor(next / LEAF_ENTRIES), usedAt);
        if (found === "missing") want(this.use);
        else if (found === "leaf" && this.use.missing(this.use.seekKey, usedAt)) want(this.use);
      };
      const resume = (status: StorageStatus) => {
        if (status === StorageStatus.ok) this.scanOn(next, left, visit, done);
        else done(status, next);
      };
      if (!this.loader.request(needs, resume)) return;
      if (this.use.seek(Math.floor(next / LEAF_ENTRIES), 0) === "end") {
        done(StorageStatus.ok, 0);
        return;
      }
      const key = this.use.seekKey;
      this.visitLeaf(this.use.find(key) as UseLeaf, Math.max(next, key * LEAF_ENTRIES), visit);
      next = (key + 1) * LEAF_ENTRIES;
    }
    done(StorageStatus.ok, next);
  }

  private visitLeaf(leaf: UseLeaf, fromLsn: number, visit: (use: BlockUse) => void): void {
    const { scanned } = this;
    for (let entry = fromLsn % LEAF_ENTRIES; entry < LEAF_ENTRIES; entry += 1) {
      const value = leaf.values[entry] as number;
      if (value === 0) continue;
      scanned.lsn = leaf.key * LEAF_ENTRIES + entry;
      scanned.livePages = value & LIVE_MASK;
      scanned.slotCount = value >>> 16;
      visit(scanned);
    }
  }

  statistics(): PageMapStatistics {
    return {
      livePageCount: this.livePages,
      liveBlockCount: this.liveBlocks,
      deadSlotCount: this.deadSlots,
      epochCount: this.epochs.size,
      residentBytes: this.residents.bytes,
      nodeBytes: this.map.nodeBytes + this.use.nodeBytes + this.epochs.nodeBytes,
      nodeBytesSinceRewrite: this.rewrite.writtenBytes,
    };
  }

  // ---- checkpoint ------------------------------------------------------------------------------------------------

  rewriteStep(done: Loaded): void {
    this.rewrite.step(this.epochs, done);
  }

  freeze(sizeBytes: number): FrozenMap {
    assert(this.frozen === undefined, "a map is frozen once at a time");
    const stamp = this.stamps.current;
    this.sizeBytes = sizeBytes;
    const epochChunks = this.epochs.freeze();
    const committedStamp = this.stamps.committed;
    const rewrite = this.rewrite.state;
    const mapRoot = this.map.root;
    const useRoot = this.use.root;
    const counts = {
      sizeBytes,
      nextLsn: this.epochs.nextLsn,
      livePageCount: this.livePages,
      liveBlockCount: this.liveBlocks,
      deadSlotCount: this.deadSlots,
    };
    const plan: CheckpointPlan = {
      map: frozenTree(this.map, committedStamp),
      use: frozenTree(this.use, committedStamp),
      epochChunks,
      committedStamp,
      epochBytesGrew: (bytes) => {
        this.epochs.nodeBytes += bytes;
      },
      makeRoot: (writtenBytes): RootRecord => {
        this.rewrite.writtenBytes += writtenBytes;
        return {
          ...counts,
          nodeBytesSinceRewrite: this.rewrite.writtenBytes,
          rewrite,
          mapTop: mapRoot?.place,
          useTop: useRoot?.place,
          mapNodeBytes: this.map.nodeBytes,
          useNodeBytes: this.use.nodeBytes,
          epochChunks: epochChunks.map((chunk) => chunk.place),
        };
      },
    };
    this.stamps.current += 1;
    this.frozen = new Frozen(stamp, plan, (lastIndex) => this.rewrite.wrote(lastIndex));
    return this.frozen;
  }

  commit(frozen: FrozenMap): void {
    assert(this.frozen === frozen, "the map that is committed is the one that was frozen");
    this.stamps.committed = this.frozen.stamp;
    this.frozen = undefined;
    this.keepBudget();
  }

  abandon(frozen: FrozenMap): void {
    assert(this.frozen === frozen, "the map that is abandoned is the one that was frozen");
    this.frozen = undefined;
  }

  // ---- opening ---------------------------------------------------------------------------------------------------

  async load(root: NodePointer): Promise<void> {
    const { reader } = this.options;
    const record = await readNode(reader, root, (view, at) => decodeRoot(view, at, root.lengthBytes));
    const chunks = [];
    for (const [key, place] of record.epochChunks.entries())
      chunks.push(await readNode(reader, place.toPointer(), (view, at) => decodeChunk(place, key, view, at)));
    this.epochs.load(chunks, record.nextLsn);
    await this.loadTop(this.map, record.mapTop);
    await this.loadTop(this.use, record.useTop);
    this.map.nodeBytes = record.mapNodeBytes;
    this.use.nodeBytes = record.useNodeBytes;
    this.sizeBytes = record.sizeBytes;
    this.livePages = record.livePageCount;
    this.liveBlocks = record.liveBlockCount;
    this.deadSlots = record.deadSlotCount;
    this.rewrite.resume(record.rewrite, record.nodeBytesSinceRewrite);
  }

  private async loadTop<L extends Leaf>(tree: RadixTree<L>, place: Place | undefined): Promise<void> {
    if (place === undefined) return;
    const decode = (view: DataView, at: number) => decodeNode(tree.kind, tree.topLevel, 0, place, view, at);
    const top = (await readNode(this.options.reader, place.toPointer(), decode)) as Interior;
    tree.root = top;
    this.residents.enter(top);
  }
}

function frozenTree<L extends Leaf>(tree: RadixTree<L>, committedStamp: number): FrozenTree {
  return {
    encode: (node, view, at) => encodeNode(tree.kind, node, view, at),
    root: tree.root,
    committedStamp,
    grew: (bytes) => {
      tree.nodeBytes += bytes;
    },
  };
}

function assertRange(firstPage: number, pageCount: number): void {
  const isInRange =
    firstPage >= 0 &&
    pageCount > 0 &&
    pageCount <= LOAD_PAGE_COUNT_MAX &&
    firstPage + pageCount <= VOLUME_PAGE_COUNT_MAX;
  if (!isInRange) assert(false, `pages ${firstPage} .. +${pageCount} are out of range`);
}

/** The map of a volume that has no root yet: all holes. */
export function createPageMap(options: PageMapOptions): PageMap {
  return new VolumePageMap(options);
}

/** Throws InodeError: "node-unreadable" or "node-missing" (retryable), or "bad-node". */
export async function openPageMap(options: PageMapOptions, root: NodePointer): Promise<PageMap> {
  const map = new VolumePageMap(options);
  await map.load(root);
  return map;
}
