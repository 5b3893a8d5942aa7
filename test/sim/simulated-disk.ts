/**
 * A disk in memory that fails the way disks do. Each file has what a reader sees now and what is durable; a write is
 * pending until a sync that began after it completes. At a power loss every pending write is kept, dropped or torn
 * at 512-byte sectors, each sector for itself, as one seeded Random decides; a process that is only killed leaves
 * everything written readable, though not durable. After a failed sync the writes it should have covered look
 * written and clean, and are gone at the next power loss unless written again (as Linux does).
 *
 * The media outlives the processes: `attach` gives one process its Disk, which is dead after `powerLoss` or `kill`.
 */
import {
  assert,
  type Clock,
  type Disk,
  type DiskEntry,
  DiskError,
  type DiskFile,
  type DiskOperation,
  DiskStatus,
  heapBuffer,
  type NativeBuffer,
  type Random,
  SECTOR_BYTES,
} from "../../src/base";

interface PendingWrite {
  readonly id: number;
  readonly offset: number;
  readonly bytes: Uint8Array;
  /** A sync that covered it failed. */
  isLost: boolean;
}

class MediaFile {
  readonly current: NativeBuffer;
  durable: Uint8Array;
  pending: PendingWrite[] = [];
  /** Beyond this there have only been zeros. */
  writtenBytes = 0;

  constructor(
    readonly name: string,
    readonly sizeBytes: number,
  ) {
    this.current = heapBuffer(sizeBytes);
    this.durable = new Uint8Array(sizeBytes);
  }
}

export type WriteFault = "no-space" | "io-error" | "misdirected" | "dropped";

export interface SimulatedDiskOptions {
  readonly random: Random;
  readonly clock: Clock;
  readonly unitBytes?: number;
  /** All files together; default unbounded. */
  readonly capacityBytes?: number;
  /** Whether files can be mapped; default false. */
  readonly isMappable?: boolean;
  /** How long a sync takes; default 0. */
  readonly syncMs?: () => number;
}

/** What happens when a fault that was asked for strikes, and where a write landed then. */
export type Struck = (name: string, offsetBytes: number) => void;

interface ArmedFault {
  readonly struck: Struck;
  /** Asked at each operation: where the answer is no, the fault waits for the next. */
  readonly mayStrike: () => boolean;
}

/** A copy of everything durable. */
export type DiskImage = ReadonlyMap<string, Uint8Array>;

export class SimulatedDisk {
  readonly #files = new Map<string, MediaFile>();
  readonly #options: SimulatedDiskOptions;
  #attached: AttachedDisk | undefined;
  #writeId = 0;
  readonly #writeFaults = new Map<DiskOperation, (ArmedFault & { readonly fault: WriteFault })[]>();
  readonly #failingSyncs = new Map<DiskOperation, (() => void)[]>();
  readonly #failingReads = new Map<DiskOperation, ArmedFault[]>();
  readonly #slowSyncs = new Map<DiskOperation, number>();
  #interruption: { operationsLeft: number; readonly callback: () => void } | undefined;
  /** Called before each operation of the attached process: a test crashes it at any one of them. */
  onOperation: ((operation: DiskOperation, isSync: boolean) => void) | undefined;
  /** What happened, for reports that show that the disk does hurt. */
  readonly counts = {
    writes: 0,
    syncs: 0,
    kept: 0,
    dropped: 0,
    torn: 0,
    powerLosses: 0,
    kills: 0,
    faults: 0,
  };

  constructor(options: SimulatedDiskOptions) {
    this.#options = options;
  }

  /** The disk as a new process sees it; the last one's is dead. */
  attach(): Disk {
    this.#attached?.die();
    this.#attached = new AttachedDisk(this, this.#options);
    return this.#attached;
  }

  /** The next write of this operation fails, lands elsewhere, or is silently not made. */
  failNextWrite(
    operation: DiskOperation,
    fault: WriteFault,
    struck: Struck = () => undefined,
    mayStrike: () => boolean = () => true,
  ): void {
    const faults = this.#writeFaults.get(operation) ?? [];
    this.#writeFaults.set(operation, [...faults, { fault, struck, mayStrike }]);
  }

  failNextSync(operation: DiskOperation, struck: () => void = () => undefined): void {
    this.#failingSyncs.set(operation, [...(this.#failingSyncs.get(operation) ?? []), struck]);
  }

  failNextRead(
    operation: DiskOperation,
    struck: Struck = () => undefined,
    mayStrike: () => boolean = () => true,
  ): void {
    const faults = this.#failingReads.get(operation) ?? [];
    this.#failingReads.set(operation, [...faults, { struck, mayStrike }]);
  }

  /** Syncs of this operation that begin from now on take so long. */
  slowSyncs(operation: DiskOperation, durationMs: number): void {
    this.#slowSyncs.set(operation, durationMs);
  }

  syncMs(operation: DiskOperation): number {
    return this.#slowSyncs.get(operation) ?? this.#options.syncMs?.() ?? 0;
  }

  /** Calls back within the given write or sync from now on, which is then begun and not finished. */
  interruptAfter(operationCount: number, callback: () => void): void {
    this.#interruption = { operationsLeft: operationCount, callback };
  }

  /** Faults that were asked for and have not struck yet do not strike any more. */
  clearFaults(): void {
    this.#writeFaults.clear();
    this.#failingSyncs.clear();
    this.#failingReads.clear();
    this.#slowSyncs.clear();
    this.#interruption = undefined;
  }

  /** The same, of reads and writes alone. */
  clearArmed(): void {
    this.#writeFaults.clear();
    this.#failingReads.clear();
  }

  /** Up to where a file was ever written with anything but zeros. */
  writtenBytes(name: string): number {
    return this.#file(name).writtenBytes;
  }

  /** The machine loses power: pending writes are kept, dropped or torn. */
  powerLoss(): void {
    this.counts.powerLosses += 1;
    this.#interruption = undefined;
    this.#attached?.die();
    for (const file of this.#files.values()) {
      for (const write of file.pending) this.#losePower(file, write);
      file.pending = [];
      file.current.bytes.set(file.durable);
    }
  }

  /** The process dies; what it wrote stays readable and may become durable later, or not. */
  kill(): void {
    this.counts.kills += 1;
    this.#interruption = undefined;
    this.#attached?.die();
  }

  image(): DiskImage {
    return new Map([...this.#files].map(([name, file]) => [name, file.durable.slice()]));
  }

  /** The disk comes back as it was at some time before. */
  restore(image: DiskImage): void {
    this.#attached?.die();
    this.#files.clear();
    for (const [name, bytes] of image) {
      const file = new MediaFile(name, bytes.length);
      file.durable.set(bytes);
      file.current.bytes.set(bytes);
      file.writtenBytes = bytes.length;
      this.#files.set(name, file);
    }
  }

  fileNames(): string[] {
    return [...this.#files.keys()].sort();
  }

  /** What a reader sees of a file now. */
  bytesOf(name: string): Uint8Array {
    return this.#file(name).current.bytes.subarray(0, this.#file(name).sizeBytes);
  }

  /** Changes bytes behind everybody's back, durably: rot. */
  corrupt(name: string, offset: number, change: (bytes: Uint8Array) => void): void {
    const file = this.#file(name);
    change(file.current.bytes.subarray(offset));
    change(file.durable.subarray(offset));
  }

  flipBit(name: string, offset: number, bit = 0): void {
    this.corrupt(name, offset, (bytes) => {
      bytes[0] = (bytes[0] as number) ^ (1 << bit);
    });
  }

  deleteFile(name: string): void {
    this.#files.delete(name);
  }

  /** Cuts a file off, as a bad repair of a file system does. */
  truncate(name: string, sizeBytes: number): void {
    const bytes = this.#file(name).durable.slice(0, sizeBytes);
    this.#files.set(name, new MediaFile(name, sizeBytes));
    this.corrupt(name, 0, (file) => file.set(bytes));
  }

  // For AttachedDisk.

  list(): DiskEntry[] {
    return [...this.#files.values()].map(({ name, sizeBytes }) => ({ name, sizeBytes }));
  }

  has(name: string): boolean {
    return this.#files.has(name);
  }

  create(name: string, sizeBytes: number): void {
    const used = this.list().reduce((sum, entry) => sum + entry.sizeBytes, 0);
    if (used + sizeBytes > (this.#options.capacityBytes ?? Number.POSITIVE_INFINITY))
      throw new DiskError("disk-full", `Cannot reserve ${sizeBytes} bytes for ${name}: ENOSPC`);
    this.#files.set(name, new MediaFile(name, sizeBytes));
  }

  sizeOf(name: string): number {
    return this.#file(name).sizeBytes;
  }

  memoryOf(name: string): NativeBuffer {
    return this.#file(name).current;
  }

  write(name: string, operation: DiskOperation, offset: number, bytes: Uint8Array): DiskStatus {
    this.counts.writes += 1;
    this.onOperation?.(operation, false);
    const file = this.#file(name);
    const armed = takeFault(this.#writeFaults.get(operation));
    const fault = armed?.fault;
    let target = offset;
    if (fault === "misdirected") {
      const sectors = Math.floor((file.sizeBytes - bytes.length) / SECTOR_BYTES);
      target = (this.#options.random.nextU32() % Math.max(1, sectors)) * SECTOR_BYTES;
    }
    if (armed !== undefined) {
      this.counts.faults += 1;
      armed.struck(name, target);
    }
    if (fault === "no-space") return DiskStatus.noSpace;
    if (fault === "io-error") return DiskStatus.ioError;
    if (fault === "dropped") return DiskStatus.ok;
    assert(target + bytes.length <= file.sizeBytes, `${name} is written beyond its end`);
    this.#writeId += 1;
    // Zeros written ahead are always the same zeros, and mostly they are there already.
    const isZeroing = operation === "data.zero";
    if (!isZeroing || target < file.writtenBytes) {
      const kept = isZeroing ? bytes : bytes.slice();
      file.pending.push({ id: this.#writeId, offset: target, bytes: kept, isLost: false });
      file.current.bytes.set(bytes, target);
      if (!isZeroing) file.writtenBytes = Math.max(file.writtenBytes, target + bytes.length);
    }
    this.#maybeInterrupt();
    return DiskStatus.ok;
  }

  read(name: string, operation: DiskOperation, offset: number, into: Uint8Array): DiskStatus {
    const failing = takeFault(this.#failingReads.get(operation));
    if (failing !== undefined) {
      this.counts.faults += 1;
      failing.struck(name, offset);
      return DiskStatus.ioError;
    }
    const file = this.#file(name);
    if (offset + into.length > file.sizeBytes) return DiskStatus.ioError;
    into.set(file.current.bytes.subarray(offset, offset + into.length));
    return DiskStatus.ok;
  }

  /** Returns what completes the sync later. */
  beginSync(name: string, operation: DiskOperation): () => DiskStatus {
    this.counts.syncs += 1;
    this.onOperation?.(operation, true);
    const file = this.#file(name);
    const lastId = this.#writeId;
    const failing = this.#failingSyncs.get(operation)?.shift();
    this.#maybeInterrupt();
    if (failing !== undefined) {
      this.counts.faults += 1;
      failing();
      return () => {
        for (const write of file.pending) if (write.id <= lastId) write.isLost = true;
        return DiskStatus.ioError;
      };
    }
    return () => {
      const rest: PendingWrite[] = [];
      for (const write of file.pending)
        if (write.id > lastId) rest.push(write);
        else if (write.isLost) rest.push(write);
        else file.durable.set(write.bytes, write.offset);
      file.pending = rest;
      return DiskStatus.ok;
    };
  }

  #maybeInterrupt(): void {
    const interruption = this.#interruption;
    if (interruption === undefined) return;
    interruption.operationsLeft -= 1;
    if (interruption.operationsLeft > 0) return;
    this.#interruption = undefined;
    interruption.callback();
  }

  #losePower(file: MediaFile, write: PendingWrite): void {
    const { counts } = this;
    const fate = write.isLost ? 1 : this.#options.random.nextU32() % 3;
    if (fate === 0) {
      counts.kept += 1;
      file.durable.set(write.bytes, write.offset);
      return;
    }
    if (fate === 1) {
      counts.dropped += 1;
      return;
    }
    counts.torn += 1;
    let start = 0;
    while (start < write.bytes.length) {
      const toBoundary = SECTOR_BYTES - ((write.offset + start) % SECTOR_BYTES);
      const end = Math.min(write.bytes.length, start + toBoundary);
      if (this.#options.random.nextU32() % 2 === 0)
        file.durable.set(write.bytes.subarray(start, end), write.offset + start);
      start = end;
    }
  }

  #file(name: string): MediaFile {
    const file = this.#files.get(name);
    if (file === undefined) throw new DiskError("disk-failed", `Cannot open ${name}: ENOENT`);
    return file;
  }
}

function takeFault<T extends ArmedFault>(faults: T[] | undefined): T | undefined {
  return faults?.[0]?.mayStrike() === true ? faults.shift() : undefined;
}

class AttachedDisk implements Disk {
  readonly description = "the simulated disk";
  readonly unitBytes: number;
  #isDead = false;

  constructor(
    private readonly media: SimulatedDisk,
    private readonly options: SimulatedDiskOptions,
  ) {
    this.unitBytes = options.unitBytes ?? SECTOR_BYTES;
  }

  get isDead(): boolean {
    return this.#isDead;
  }

  get isMappable(): boolean {
    return this.options.isMappable ?? false;
  }

  die(): void {
    this.#isDead = true;
  }

  lock(): void {}

  list(): readonly DiskEntry[] {
    return this.media.list();
  }

  open(name: string): DiskFile {
    return new AttachedFile(this, this.media, this.options, name, this.media.sizeOf(name));
  }

  create(name: string, sizeBytes: number, _headBytes: number): DiskFile {
    if (this.media.has(name)) throw new DiskError("disk-failed", `Cannot create ${name}: EEXIST`);
    if (!this.#isDead) this.media.create(name, sizeBytes);
    return new AttachedFile(this, this.media, this.options, name, sizeBytes);
  }

  remove(name: string): void {
    if (!this.#isDead) this.media.deleteFile(name);
  }

  close(): void {
    this.#isDead = true;
  }
}

let zeroBytes = new Uint8Array(0);
/** Never changed by anybody. */
function zeros(lengthBytes: number): Uint8Array {
  if (zeroBytes.length < lengthBytes) zeroBytes = new Uint8Array(lengthBytes);
  return zeroBytes.subarray(0, lengthBytes);
}

class AttachedFile implements DiskFile {
  constructor(
    private readonly disk: AttachedDisk,
    private readonly media: SimulatedDisk,
    private readonly options: SimulatedDiskOptions,
    readonly name: string,
    readonly sizeBytes: number,
  ) {}

  write(
    operation: DiskOperation,
    fileOffsetBytes: number,
    source: NativeBuffer,
    sourceOffsetBytes: number,
    lengthBytes: number,
  ): DiskStatus {
    // A dead process writes nothing; it just has not noticed yet.
    if (this.disk.isDead) return DiskStatus.ok;
    assert(fileOffsetBytes % this.disk.unitBytes === 0, `${operation} at ${fileOffsetBytes} is not aligned`);
    const isAligned = lengthBytes % this.disk.unitBytes === 0 || operation === "data.write";
    assert(isAligned, `${operation} of ${lengthBytes} bytes is not aligned`);
    const bytes = source.bytes.subarray(sourceOffsetBytes, sourceOffsetBytes + lengthBytes);
    return this.media.write(this.name, operation, fileOffsetBytes, bytes);
  }

  read(
    operation: DiskOperation,
    fileOffsetBytes: number,
    destination: NativeBuffer,
    destinationOffsetBytes: number,
    lengthBytes: number,
  ): DiskStatus {
    const into = destination.bytes.subarray(destinationOffsetBytes, destinationOffsetBytes + lengthBytes);
    return this.media.read(this.name, operation, fileOffsetBytes, into);
  }

  sync(operation: DiskOperation, done: (status: DiskStatus) => void): void {
    if (this.disk.isDead) return;
    const complete = this.media.beginSync(this.name, operation);
    this.options.clock.schedule(this.media.syncMs(operation), () => {
      if (!this.disk.isDead) done(complete());
    });
  }

  zero(fileOffsetBytes: number, lengthBytes: number, done: (status: DiskStatus) => void): void {
    if (this.disk.isDead) return;
    this.options.clock.schedule(this.options.syncMs?.() ?? 0, () => {
      if (this.disk.isDead) return;
      done(this.media.write(this.name, "data.zero", fileOffsetBytes, zeros(lengthBytes)));
    });
  }

  map(): NativeBuffer | undefined {
    return this.disk.isMappable ? this.media.memoryOf(this.name) : undefined;
  }
}
