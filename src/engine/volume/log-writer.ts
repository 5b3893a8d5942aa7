/**
 * The writing end of a volume's log: the open block, sealed blocks on their way to the peers, acknowledged blocks
 * on their way into the map, in that order and each in index order. Pages enter the open block and the overlay in
 * one synchronous step; a block enters the map only when it is acknowledged, so the map always is a prefix of the
 * log that a checkpoint may cover.
 */
import {
  assert,
  BlockKind,
  type BlockRef,
  type Clock,
  type NativeBuffer,
  type TurnScheduler,
} from "../../base";
import { type BlockSealer, PAGE_BYTES } from "../block";
import type { Distributor } from "../distributor";
import { lsnOf, makeLocation, type PageMap, slotOf } from "../inode";
import { BlockApplier } from "./block-applier";
import type { BlockOwner, BlockPool, VolumeBlock } from "./block-pool";
import type { VolumeError } from "./errors";
import { PageOverlay } from "./page-overlay";
import type { ObserveLatency, VolumeStatistics } from "./statistics";

/** Trims that wait for their block to reach the map; more make the writer wait. */
const PENDING_HOLES_MAX = 2048;

export interface LogWriterOptions {
  readonly writeBackMs: number;
  readonly sealEarlyBytes: number;
}

export interface LogWriterPorts {
  readonly clock: Clock;
  readonly turns: TurnScheduler;
  readonly pool: BlockPool;
  readonly sealer: BlockSealer;
  readonly map: PageMap;
  readonly statistics: VolumeStatistics;
  readonly observe: ObserveLatency | undefined;
  /** Of the head in force. */
  coveredIndex(): number;
}

export type Acknowledged = (ok: boolean) => void;

export class LogWriter implements BlockOwner {
  readonly overlay = new PageOverlay();
  /** Room came: a buffer is free or trims were applied. */
  onRoom: () => void = () => {};
  /** A block entered the map. */
  onApplied: (index: number) => void = () => {};
  onFailed: (error: VolumeError) => void = () => {};
  readonly #ports: LogWriterPorts;
  readonly #options: LogWriterOptions;
  readonly #identity: Pick<BlockRef, "volumeId" | "epoch">;
  readonly #distributor: Distributor;
  readonly #applier: BlockApplier;
  /** Blocks whose bytes are in memory, by lsn: open, sealed, and free ones not yet used again. */
  readonly #readable = new Map<number, VolumeBlock>();
  readonly #unapplied = new Map<number, VolumeBlock>();
  #open: VolumeBlock | undefined;
  #sealedIndex = 0;
  #appliedIndex = 0;
  #sealWantedIndex = 0;
  #sealScheduled = false;
  #writeBackScheduled = false;
  #waitingForBuffer = false;
  /** Blocks of this volume that are sealed and not in the map: one that is stuck leaves some to the others. */
  readonly #heldBlocksMax: number;
  #waitingForOwn = false;
  #stopped = false;
  #logBytes = 0;
  /** Flushes in the order of the index they wait for. */
  readonly #waitIndexes: number[] = [];
  readonly #waiters: Acknowledged[] = [];
  #waiterHead = 0;
  readonly #appliedWaiters: { index: number; run: () => void }[] = [];

  constructor(
    ports: LogWriterPorts,
    options: LogWriterOptions,
    identity: Pick<BlockRef, "volumeId" | "epoch">,
    distributor: Distributor,
  ) {
    this.#ports = ports;
    this.#options = options;
    this.#identity = identity;
    this.#distributor = distributor;
    this.#applier = new BlockApplier(ports.clock, ports.map);
    this.#heldBlocksMax = Math.max(1, Math.floor((ports.pool.blockCountMax * 7) / 8));
  }

  get sealedIndex(): number {
    return this.#sealedIndex;
  }

  get appliedIndex(): number {
    return this.#appliedIndex;
  }

  get acknowledgedIndex(): number {
    return this.#distributor.acknowledgedIndex;
  }

  /** Bytes of blocks sealed since the volume was opened. */
  get logBytes(): number {
    return this.#logBytes;
  }

  /** The index that has to be acknowledged for everything written so far to be durable. */
  get newestIndex(): number {
    return this.#open && !this.#open.builder.isEmpty ? this.#open.index : this.#sealedIndex;
  }

  // ---- reading what is in memory --------------------------------------------------------------------------------

  /** The block of this location if its bytes are in memory. */
  blockInMemory(location: number): VolumeBlock | undefined {
    return this.#readable.get(lsnOf(location));
  }

  forgetBlock(block: VolumeBlock): void {
    this.#readable.delete(block.lsn);
  }

  /** Offset in the open block's buffer of the page's bytes, or -1 when it is not in the open block. */
  openPageOffset(page: number): number {
    const open = this.#open;
    if (!open) return -1;
    const location = this.overlay.locate(page);
    return location > 0 && lsnOf(location) === open.lsn ? open.builder.slotOffset(slotOf(location)) : -1;
  }

  get openBuffer(): NativeBuffer {
    return (this.#open as VolumeBlock).builder.buffer;
  }

  // ---- writing --------------------------------------------------------------------------------------------------

  /** Pages that can be placed now without waiting; 0 asks the caller to wait for `onRoom`. */
  room(): number {
    const open = this.#openBlock();
    return open ? open.builder.freeSlots : 0;
  }

  /**
   * Copies whole pages from the source and maps them, as many as there is room for now; a page that is in the open
   * block already is replaced there. Returns how many; 0 asks the caller to wait for `onRoom`.
   */
  writePages(firstPage: number, pageCount: number, source: NativeBuffer, sourceOffset: number): number {
    let written = 0;
    while (written < pageCount) {
      const open = this.#openBlock();
      if (!open) return written;
      written += this.#writeSome(
        open,
        firstPage + written,
        pageCount - written,
        source,
        sourceOffset + written * PAGE_BYTES,
      );
    }
    return written;
  }

  /**
   * Takes a slot in the open block for a page that is not in it, maps the page to it and returns the slot's offset
   * in `openBuffer`; the caller fills all its bytes in the same turn and then calls `pageFilled`. -1: no room.
   */
  placePage(page: number): number {
    const open = this.#openBlock();
    if (!open) return -1;
    const slot = open.builder.addPages(page, 1);
    this.overlay.set(page, makeLocation(open.lsn, slot));
    return open.builder.slotOffset(slot);
  }

  pageFilled(): void {
    if (this.#open) this.#sealIfDue(this.#open);
  }

  /** Makes the pages holes. False: no room now, wait for `onRoom`. */
  addHole(firstPage: number, pageCount: number): boolean {
    if (this.overlay.holeCount >= PENDING_HOLES_MAX) {
      this.requestSeal();
      return false;
    }
    for (let attempt = 0; attempt < 2; attempt++) {
      const open = this.#openBlock();
      if (!open) return false;
      if (open.builder.addHole(firstPage, pageCount)) {
        this.overlay.addHole(firstPage, pageCount, open.lsn);
        if (open.builder.freeSlots === 0) this.#seal(open);
        else this.#scheduleWriteBack();
        return true;
      }
      this.#seal(open);
    }
    return false;
  }

  /** Seals at the end of this turn, so that all flushes of a turn share one block. */
  requestSeal(): void {
    const open = this.#open;
    if (!open || open.builder.isEmpty) return;
    this.#sealWantedIndex = open.index;
    if (this.#sealScheduled) return;
    this.#sealScheduled = true;
    this.#ports.turns.afterTurn(this.#sealAfterTurn);
  }

  /** Seals now; returns the last sealed index. */
  sealNow(): number {
    if (this.#open && !this.#open.builder.isEmpty) this.#seal(this.#open);
    return this.#sealedIndex;
  }

  /** Calls back when block `index` is acknowledged (true), or with false when writing stopped or is out of space. */
  whenAcknowledged(index: number, done: Acknowledged): void {
    if (index <= this.#distributor.acknowledgedIndex) return done(true);
    if (this.#stopped) return done(false);
    // Waiters come in index order, but for a request that wrote its last page before others went on.
    if (this.#waiterHead < this.#waiters.length && index < (this.#waitIndexes.at(-1) as number)) {
      let at = this.#waiters.length;
      while (at > this.#waiterHead && (this.#waitIndexes[at - 1] as number) > index) at--;
      this.#waitIndexes.splice(at, 0, index);
      this.#waiters.splice(at, 0, done);
      return;
    }
    this.#waitIndexes.push(index);
    this.#waiters.push(done);
  }

  /** Ends all waiting flushes with false; what they waited for stays and is sent on. */
  failWaiters(): void {
    const waiters = this.#waiters.splice(0).slice(this.#waiterHead);
    this.#waitIndexes.length = 0;
    this.#waiterHead = 0;
    for (const done of waiters) done(false);
  }

  /** Runs between two blocks' application, when all blocks up to `index` are in the map. */
  whenApplied(index: number, run: () => void): void {
    if (this.#appliedIndex >= index && !this.#applier.busy) run();
    else this.#appliedWaiters.push({ index, run });
  }

  /** From the distributor: all blocks up to `index` are acknowledged. */
  acknowledged(index: number): void {
    while (
      this.#waiterHead < this.#waiters.length &&
      (this.#waitIndexes[this.#waiterHead] as number) <= index
    ) {
      const done = this.#waiters[this.#waiterHead++] as Acknowledged;
      done(true);
    }
    if (this.#waiterHead === this.#waiters.length) {
      this.#waiters.length = 0;
      this.#waitIndexes.length = 0;
      this.#waiterHead = 0;
    }
    this.#applyNext();
  }

  /** Nothing is sealed, applied or waited for any more. Buffers go back as the peers let go of them. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#applier.stop();
    this.#appliedWaiters.length = 0;
    this.failWaiters();
    const open = this.#open;
    this.#open = undefined;
    if (open) this.#ports.pool.release(open);
    for (const block of this.#unapplied.values()) {
      block.applied = true;
      this.#releaseIfFree(block);
    }
    this.#unapplied.clear();
  }

  #openBlock(): VolumeBlock | undefined {
    if (this.#open) return this.#open;
    if (this.#stopped) return undefined;
    if (this.#unapplied.size >= this.#heldBlocksMax) {
      this.#waitingForOwn = true;
      return undefined;
    }
    const block = this.#ports.pool.acquire();
    if (!block) {
      this.#waitForBuffer();
      return undefined;
    }
    block.owner = this;
    block.index = this.#sealedIndex + 1;
    block.lsn = this.#ports.map.claimLsn(block.index);
    this.#readable.set(block.lsn, block);
    this.#open = block;
    return block;
  }

  #waitForBuffer(): void {
    if (this.#waitingForBuffer) return;
    this.#waitingForBuffer = true;
    this.#ports.pool.whenFree(() => {
      this.#waitingForBuffer = false;
      if (!this.#stopped) this.onRoom();
    });
  }

  #writeSome(
    open: VolumeBlock,
    firstPage: number,
    pageCount: number,
    source: NativeBuffer,
    sourceOffset: number,
  ): number {
    const builder = open.builder;
    const bytes = builder.buffer.bytes;
    const first = this.overlay.locate(firstPage);
    if (first > 0 && lsnOf(first) === open.lsn) {
      const at = builder.slotOffset(slotOf(first));
      bytes.set(source.bytes.subarray(sourceOffset, sourceOffset + PAGE_BYTES), at);
      return 1;
    }
    let count = Math.min(pageCount, builder.freeSlots);
    if (count > 1 && builder.slotCount > 0)
      for (let next = 1; next < count; next++) {
        const location = this.overlay.locate(firstPage + next);
        if (location > 0 && lsnOf(location) === open.lsn) count = next;
      }
    const slot = builder.addPages(firstPage, count);
    bytes.set(
      source.bytes.subarray(sourceOffset, sourceOffset + count * PAGE_BYTES),
      builder.slotOffset(slot),
    );
    const location = makeLocation(open.lsn, slot);
    for (let index = 0; index < count; index++) this.overlay.set(firstPage + index, location + index);
    this.#sealIfDue(open);
    return count;
  }

  /** Full blocks are sealed at once; while little is in flight smaller ones are, to keep the peers busy. */
  #sealIfDue(open: VolumeBlock): void {
    const builder = open.builder;
    if (builder.freeSlots === 0) return this.#seal(open);
    const bytes = builder.slotCount * PAGE_BYTES;
    if (bytes >= this.#options.sealEarlyBytes && this.#distributor.blocksPending === 0)
      return this.#seal(open);
    this.#scheduleWriteBack();
  }

  #scheduleWriteBack(): void {
    if (this.#writeBackScheduled) return;
    this.#writeBackScheduled = true;
    const index = this.#sealedIndex + 1;
    this.#ports.clock.schedule(this.#options.writeBackMs, () => {
      this.#writeBackScheduled = false;
      const open = this.#open;
      if (this.#stopped || !open || open.builder.isEmpty) return;
      if (open.index === index) this.#seal(open);
      else this.#scheduleWriteBack();
    });
  }

  readonly #sealAfterTurn = (): void => {
    this.#sealScheduled = false;
    const open = this.#open;
    if (!this.#stopped && open && open.index === this.#sealWantedIndex && !open.builder.isEmpty)
      this.#seal(open);
  };

  #seal(block: VolumeBlock): void {
    assert(block === this.#open && !block.builder.isEmpty, "only the open block is sealed, and not empty");
    const { volumeId, epoch } = this.#identity;
    const ref: BlockRef = { kind: BlockKind.data, volumeId, epoch, index: block.index };
    const { observe, clock } = this.#ports;
    const startMs = observe ? clock.nowMs() : 0;
    const sealed = block.builder.seal(this.#ports.sealer, ref, this.#ports.coveredIndex());
    this.#open = undefined;
    this.#sealedIndex = block.index;
    this.#logBytes += sealed.lengthBytes;
    this.#ports.statistics.blocksSealed++;
    this.#ports.statistics.logBytes += sealed.lengthBytes;
    block.sealed = true;
    block.sealedOffset = sealed.offset;
    block.sealedBytes = sealed.lengthBytes;
    this.#unapplied.set(block.index, block);
    const sending = block.sending;
    sending.ref = ref;
    sending.buffer = sealed.buffer;
    sending.offset = sealed.offset;
    sending.lengthBytes = sealed.lengthBytes;
    sending.writerEpoch = epoch;
    sending.ordered = true;
    sending.released = () => {
      block.released = true;
      this.#releaseIfFree(block);
    };
    if (observe) {
      const sealedMs = clock.nowMs();
      observe("seal", sealedMs - startMs);
      sending.acknowledged = () => observe("blockAcknowledged", clock.nowMs() - sealedMs);
    }
    this.#distributor.submit(sending);
  }

  #releaseIfFree(block: VolumeBlock): void {
    if (block.released && block.applied) this.#ports.pool.release(block);
  }

  #applyNext(): void {
    while (
      !this.#stopped &&
      !this.#applier.busy &&
      this.#appliedIndex < this.#distributor.acknowledgedIndex
    ) {
      this.#runAppliedWaiters();
      const block = this.#unapplied.get(this.#appliedIndex + 1) as VolumeBlock;
      this.#applier.apply(
        block.builder.buffer,
        block.sealedOffset,
        block.sealedBytes,
        block.lsn,
        this.#onBlockApplied,
      );
    }
  }

  readonly #onBlockApplied = (error: VolumeError | undefined): void => {
    if (error) return this.onFailed(error);
    const index = this.#appliedIndex + 1;
    const block = this.#unapplied.get(index) as VolumeBlock;
    this.#unapplied.delete(index);
    this.#appliedIndex = index;
    const builder = block.builder;
    const location = makeLocation(block.lsn, 0);
    for (let slot = 0; slot < builder.slotCount; slot++) {
      const page = builder.pageOfSlot(slot);
      if (page >= 0) this.overlay.settle(page, location + slot);
    }
    if (builder.holeCount > 0) this.overlay.settleHoles(block.lsn);
    const roomCame = builder.holeCount > 0 || this.#waitingForOwn;
    block.applied = true;
    this.#releaseIfFree(block);
    if (roomCame) {
      this.#waitingForOwn = false;
      this.onRoom();
    }
    this.onApplied(index);
    this.#runAppliedWaiters();
    this.#applyNext();
  };

  #runAppliedWaiters(): void {
    for (let at = 0; at < this.#appliedWaiters.length; ) {
      const waiter = this.#appliedWaiters[at] as { index: number; run: () => void };
      if (waiter.index > this.#appliedIndex) at++;
      else {
        this.#appliedWaiters.splice(at, 1);
        waiter.run();
      }
    }
  }
}
