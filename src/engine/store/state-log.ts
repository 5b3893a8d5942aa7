/**
 * The few facts a peer must never forget, apart from its blocks: who it is, which life of the disk this is, how often
 * it was opened, the ring version it has seen, how many segments exist, and the highest fence of every volume. They
 * live in one small file with two alternating areas; a change is a 64-byte record, and an area that is full is
 * replaced by a snapshot in the other. All that waits is made durable by one sync.
 *
 *   | area offset   | size       | holds                                                             |
 *   |---------------|------------|-------------------------------------------------------------------|
 *   | 0             | 4 KiB      | snapshot header (its first 512 bytes, one sector)                 |
 *   | 4 KiB         | area / 4   | records, from sequence 0                                          |
 *   | 4 KiB + a / 4 | the rest   | fences of the snapshot: volume id u64, epoch u64                  |
 *
 * Snapshot header (little-endian): 0 magic "TSTA"; 4 CRC32 of [8, 512); 8 version u16; 10 zero u16; 12 generation
 * u32; 16 cluster id; 32 peer id; 48 incarnation (8 bytes); 56 boot count u32; 60 segment count u32; 64 segment length
 * u32; 68 unit u32; 72 store seed u32; 76 area length u32; 80 ring version u64; 88 fence count u32; 92 CRC32 of the fences; 96 progress u64.
 *
 * Record: 0 CRC32 of [4, 64), seeded with the store seed; 4 kind u8; 8 generation u32; 12 sequence u32; 16 boot count
 * u32; 20 first sequence not known durable u32; 24 first value u64 or incarnation; 32 second value u64.
 *
 * The first record of an area says that its snapshot is durable. A torn snapshot has none, and the other area is
 * still in force; a snapshot that does not read although it has one is damage, as is every gap before a record
 * that was known durable.
 */
import {
  type AllocateBuffer,
  type ClusterId,
  type Incarnation,
  type NativeBuffer,
  type PeerId,
  type DiskFile,
  DiskStatus,
} from "../../base";
import { getU64, isZero, METADATA_PAGE_BYTES, RECORD_BYTES, setU64, uuidBytes, uuidText } from "./layout";
import { RecordRing } from "./record-ring";

const MAGIC = 0x41545354;
const FORMAT_VERSION = 1;
const HEADER_BYTES = 512;
const FENCE_BYTES = 16;
const Kind = { renewal: 0, sealed: 1, fence: 2, ring: 3, segments: 4, incarnation: 5, progress: 6 } as const;

export interface StateIdentity {
  readonly clusterId: ClusterId;
  readonly peerId: PeerId;
  readonly storeSeed: number;
  /** Length of every segment but perhaps the last. */
  readonly segmentBytes: number;
  readonly unitBytes: number;
}

type Done = (status: DiskStatus) => void;

interface Change {
  readonly kind: number;
  readonly first: number;
  readonly second: number;
  readonly done: Done;
}

export const stateAreaBytes = (storeBytes: number): number =>
  Math.min(Math.max(2 ** Math.floor(Math.log2(storeBytes / 1024)), 64 * 1024), 4 * 1024 * 1024);

export class StateLog {
  readonly fences = new Map<number, number>();
  incarnation: Incarnation = "0000000000000000" as Incarnation;
  bootCount = 0;
  progress = 0;
  ringVersion = 0;
  segmentCount = 0;

  #generation = 0;
  #sequence = 0;
  #durableEnd = 0;
  #records: RecordRing;
  #queue: Change[] = [];
  #isBusy = false;
  #failed: DiskStatus = DiskStatus.ok;
  /** How many syncs were made. */
  syncCount = 0;

  private constructor(
    readonly identity: StateIdentity,
    private readonly file: DiskFile,
    private readonly areaBytes: number,
    private readonly allocate: AllocateBuffer,
  ) {
    this.#records = this.#newRing();
  }

  /** Fences that one area has room for. */
  get fencesMax(): number {
    return Math.floor((this.areaBytes - this.#fencesOffset()) / FENCE_BYTES);
  }

  /** A new log; nothing is durable before `writeSnapshot` is done. */
  static create(
    file: DiskFile,
    identity: StateIdentity,
    incarnation: Incarnation,
    allocate: AllocateBuffer,
  ): StateLog {
    const log = new StateLog(identity, file, file.sizeBytes / 2, allocate);
    log.incarnation = incarnation;
    return log;
  }

  /** Reads the log of a store; a text says what is wrong with it. */
  static load(file: DiskFile, allocate: AllocateBuffer): StateLog | string {
    const areaBytes = file.sizeBytes / 2;
    const image = allocate(file.sizeBytes);
    if (file.read("state.read", 0, image, 0, file.sizeBytes) !== DiskStatus.ok)
      return `${file.name} cannot be read`;
    const areas = [readArea(image, 0, areaBytes), readArea(image, areaBytes, areaBytes)];
    const valid = areas.filter((area) => area.kind === "valid").sort((a, b) => b.generation - a.generation);
    const best = valid[0];
    if (best === undefined) return `${file.name} holds no readable snapshot`;
    for (const area of areas)
      if (
        area.kind !== "valid" &&
        sealedGeneration(image, area.offset, best.identity.storeSeed) > best.generation
      )
        return `${file.name} has lost its newest snapshot`;
    const log = new StateLog(best.identity, file, areaBytes, allocate);
    const problem = log.#restore(image, best);
    // Not known to be durable: the next snapshot must replace this one and leave the other area alone.
    if (log.#sequence === 0) log.#generation -= 1;
    return problem ?? log;
  }

  raiseFence(volumeId: number, epoch: number, done: Done): void {
    this.fences.set(volumeId, Math.max(epoch, this.fences.get(volumeId) ?? 0));
    this.#change(Kind.fence, volumeId, epoch, done);
  }

  setRingVersion(ringVersion: number, done: Done): void {
    this.ringVersion = ringVersion;
    this.#change(Kind.ring, ringVersion, 0, done);
  }

  setSegmentCount(segmentCount: number, done: Done): void {
    this.segmentCount = segmentCount;
    this.#change(Kind.segments, segmentCount, 0, done);
  }

  /** Returns the progress that is durable when it is done. */
  advance(done: Done): number {
    this.progress += 1;
    this.#change(Kind.progress, this.progress, 0, done);
    return this.progress;
  }

  setIncarnation(incarnation: Incarnation, done: Done): void {
    this.incarnation = incarnation;
    const high = Number.parseInt(incarnation.slice(0, 8), 16);
    const low = Number.parseInt(incarnation.slice(8), 16);
    this.#change(Kind.incarnation, low, high, done);
  }

  /** Whether changes are being written. */
  get isBusy(): boolean {
    return this.#isBusy;
  }

  /** What is wrong with what is on the disk, by what is known here, while nothing is being written. */
  findRot(): string | undefined {
    const found = StateLog.load(this.file, this.allocate);
    if (typeof found === "string") return found;
    const isSame =
      found.incarnation === this.incarnation &&
      found.bootCount === this.bootCount &&
      found.progress === this.progress &&
      found.ringVersion === this.ringVersion &&
      found.segmentCount === this.segmentCount &&
      found.fences.size === this.fences.size &&
      [...found.fences].every(([volumeId, epoch]) => this.fences.get(volumeId) === epoch);
    return isSame ? undefined : `${this.file.name} is older than it should be`;
  }

  /** Writes all values anew, where others are in force until it is done. */
  renew(done: Done): void {
    this.#change(Kind.renewal, 0, 0, done);
  }

  /**
   * Writes all values as a new snapshot. Every start does, with its boot count: what a killed process wrote and
   * never synced is readable, and may still be lost, until it is written again.
   */
  writeSnapshot(done: Done): void {
    this.#isBusy = true;
    this.#rotate((status) => this.#finish([{ kind: Kind.renewal, first: 0, second: 0, done }], status));
  }

  #change(kind: number, first: number, second: number, done: Done): void {
    this.#queue.push({ kind, first, second, done });
    if (!this.#isBusy) this.#start();
  }

  #start(): void {
    const changes = this.#queue;
    this.#queue = [];
    this.#isBusy = true;
    const finish = (status: DiskStatus) => this.#finish(changes, status);
    if (this.#failed !== DiskStatus.ok) return finish(this.#failed);
    const slotCount = this.#recordSlots();
    const isSealMissing = this.#sequence === 0 ? 1 : 0;
    const isRenewal = changes.some(({ kind }) => kind === Kind.renewal);
    if (isRenewal || this.#sequence + isSealMissing + changes.length > slotCount) return this.#rotate(finish);
    let status: DiskStatus = DiskStatus.ok;
    if (isSealMissing === 1) status = this.#append(Kind.sealed, 0, 0);
    for (const change of changes)
      if (status === DiskStatus.ok) status = this.#append(change.kind, change.first, change.second);
    if (status === DiskStatus.ok) status = this.#records.flush();
    if (status !== DiskStatus.ok) return finish(status);
    this.#sync(finish);
  }

  #finish(changes: readonly Change[], status: DiskStatus): void {
    if (status === DiskStatus.ok) this.#durableEnd = this.#sequence;
    else this.#failed = status;
    this.#isBusy = false;
    for (const change of changes) change.done(status);
    if (this.#queue.length > 0 && !this.#isBusy) this.#start();
  }

  #append(kind: number, first: number, second: number): DiskStatus {
    const status = this.#records.prepare(this.#sequence);
    if (status !== DiskStatus.ok) return status;
    const { page } = this.#records;
    const offset = this.#records.slotOffset(this.#sequence);
    page.bytes[offset + 4] = kind;
    page.view.setUint32(offset + 8, this.#generation, true);
    page.view.setUint32(offset + 12, this.#sequence, true);
    page.view.setUint32(offset + 16, this.bootCount, true);
    page.view.setUint32(offset + 20, this.#durableEnd, true);
    setU64(page.view, offset + 24, first);
    setU64(page.view, offset + 32, second);
    const crc = Bun.hash.crc32(
      page.bytes.subarray(offset + 4, offset + RECORD_BYTES),
      this.identity.storeSeed,
    );
    page.view.setUint32(offset, crc, true);
    this.#sequence += 1;
    return DiskStatus.ok;
  }

  /** A snapshot of all values in the other area, then the record that says it is durable. */
  #rotate(done: Done): void {
    this.#generation += 1;
    const image = this.allocate(this.areaBytes);
    this.#encodeSnapshot(image);
    const areaOffset = this.#areaOffset();
    const fences = this.#fencesOffset();
    const fencesLength =
      Math.ceil((this.fences.size * FENCE_BYTES) / METADATA_PAGE_BYTES) * METADATA_PAGE_BYTES;
    // With its records, all zero: what rotted among the old ones would be damage of this snapshot's.
    const status = this.file.write("state.write", areaOffset, image, 0, fences + fencesLength);
    if (status !== DiskStatus.ok) return done(status);
    this.#records = this.#newRing();
    this.#sequence = 0;
    this.#durableEnd = 0;
    this.#sync((synced) => {
      if (synced !== DiskStatus.ok) return done(synced);
      let sealed = this.#append(Kind.sealed, 0, 0);
      if (sealed === DiskStatus.ok) sealed = this.#records.flush();
      if (sealed !== DiskStatus.ok) return done(sealed);
      this.#sync(done);
    });
  }

  #sync(done: Done): void {
    this.syncCount += 1;
    this.file.sync("state.sync", done);
  }

  #encodeSnapshot(image: NativeBuffer): void {
    const { view, bytes } = image;
    const fences = this.#fencesOffset();
    let offset = fences;
    for (const [volumeId, epoch] of this.fences) {
      setU64(view, offset, volumeId);
      setU64(view, offset + 8, epoch);
      offset += FENCE_BYTES;
    }
    view.setUint32(0, MAGIC, true);
    view.setUint16(8, FORMAT_VERSION, true);
    view.setUint32(12, this.#generation, true);
    bytes.set(uuidBytes(this.identity.clusterId), 16);
    bytes.set(uuidBytes(this.identity.peerId), 32);
    bytes.set(Buffer.from(this.incarnation, "hex"), 48);
    view.setUint32(56, this.bootCount, true);
    view.setUint32(60, this.segmentCount, true);
    view.setUint32(64, this.identity.segmentBytes, true);
    view.setUint32(68, this.identity.unitBytes, true);
    view.setUint32(72, this.identity.storeSeed, true);
    view.setUint32(76, this.areaBytes, true);
    setU64(view, 80, this.ringVersion);
    view.setUint32(88, this.fences.size, true);
    view.setUint32(92, Bun.hash.crc32(bytes.subarray(fences, offset)), true);
    setU64(view, 96, this.progress);
    view.setUint32(4, Bun.hash.crc32(bytes.subarray(8, HEADER_BYTES)), true);
  }

  /** Takes over a snapshot and the records after it; a text says what is wrong. */
  #restore(image: NativeBuffer, area: ValidArea): string | undefined {
    const { view } = image;
    this.#generation = area.generation;
    this.incarnation = Buffer.from(image.bytes.subarray(area.offset + 48, area.offset + 56)).toString(
      "hex",
    ) as Incarnation;
    this.bootCount = view.getUint32(area.offset + 56, true);
    this.segmentCount = view.getUint32(area.offset + 60, true);
    this.ringVersion = getU64(view, area.offset + 80);
    this.progress = getU64(view, area.offset + 96);
    for (let index = 0; index < area.fenceCount; index += 1) {
      const offset = area.offset + this.#fencesOffset() + index * FENCE_BYTES;
      this.fences.set(getU64(view, offset), getU64(view, offset + 8));
    }
    const records = area.offset + METADATA_PAGE_BYTES;
    const seed = this.identity.storeSeed;
    let boot = 0;
    for (; this.#sequence < this.#recordSlots(); this.#sequence += 1) {
      const offset = records + this.#sequence * RECORD_BYTES;
      if (!isRecordOf(image, offset, seed, area.generation, this.#sequence)) break;
      if (view.getUint32(offset + 16, true) < boot) break;
      boot = view.getUint32(offset + 16, true);
      this.#apply(image, offset);
    }
    const problem = this.#findDamage(image, records, seed, area.generation);
    if (problem !== undefined) return problem;
    this.#durableEnd = this.#sequence;
    this.#records = this.#newRing();
    if (this.#records.resume(this.#sequence, "state.read") !== DiskStatus.ok)
      return `${this.file.name} cannot be read`;
    return undefined;
  }

  #apply(image: NativeBuffer, offset: number): void {
    const first = getU64(image.view, offset + 24);
    const second = getU64(image.view, offset + 32);
    const kind = image.bytes[offset + 4];
    if (kind === Kind.fence) this.fences.set(first, Math.max(second, this.fences.get(first) ?? 0));
    else if (kind === Kind.ring) this.ringVersion = first;
    else if (kind === Kind.segments) this.segmentCount = first;
    else if (kind === Kind.progress) this.progress = first;
    else if (kind === Kind.incarnation)
      this.incarnation = (second.toString(16).padStart(8, "0") +
        first.toString(16).padStart(8, "0")) as Incarnation;
  }

  #findDamage(image: NativeBuffer, records: number, seed: number, generation: number): string | undefined {
    for (let slot = this.#sequence; slot < this.#recordSlots(); slot += 1) {
      const offset = records + slot * RECORD_BYTES;
      if (isZero(image.bytes, offset, RECORD_BYTES)) continue;
      if (!isRecord(image, offset, seed)) return `${this.file.name} has a damaged record (number ${slot})`;
      const isOfThisLife =
        image.view.getUint32(offset + 8, true) === generation &&
        image.view.getUint32(offset + 16, true) >= this.bootCount;
      if (isOfThisLife && image.view.getUint32(offset + 20, true) > this.#sequence)
        return `${this.file.name} has lost record number ${this.#sequence}`;
    }
    return undefined;
  }

  #newRing(): RecordRing {
    const { file, allocate } = this;
    const offset = this.#areaOffset() + METADATA_PAGE_BYTES;
    return new RecordRing(
      file,
      "state.write",
      offset,
      this.#recordSlots(),
      this.identity.unitBytes,
      allocate,
    );
  }

  #areaOffset(): number {
    return (this.#generation % 2) * this.areaBytes;
  }

  #recordSlots(): number {
    return this.areaBytes / 4 / RECORD_BYTES;
  }

  #fencesOffset(): number {
    return METADATA_PAGE_BYTES + this.areaBytes / 4;
  }
}

interface ValidArea {
  readonly kind: "valid";
  readonly offset: number;
  readonly generation: number;
  readonly identity: StateIdentity;
  readonly fenceCount: number;
}

function readArea(
  image: NativeBuffer,
  offset: number,
  areaBytes: number,
): ValidArea | { readonly kind: "unusable"; readonly offset: number; readonly generation: 0 } {
  const { view, bytes } = image;
  const unusable = { kind: "unusable", offset, generation: 0 } as const;
  if (view.getUint32(offset, true) !== MAGIC) return unusable;
  if (view.getUint32(offset + 4, true) !== Bun.hash.crc32(bytes.subarray(offset + 8, offset + HEADER_BYTES)))
    return unusable;
  if (view.getUint16(offset + 8, true) !== FORMAT_VERSION || view.getUint32(offset + 76, true) !== areaBytes)
    return unusable;
  const fenceCount = view.getUint32(offset + 88, true);
  const fences = offset + METADATA_PAGE_BYTES + areaBytes / 4;
  if (fences + fenceCount * FENCE_BYTES > offset + areaBytes) return unusable;
  if (
    view.getUint32(offset + 92, true) !==
    Bun.hash.crc32(bytes.subarray(fences, fences + fenceCount * FENCE_BYTES))
  )
    return unusable;
  return {
    kind: "valid",
    offset,
    generation: view.getUint32(offset + 12, true),
    fenceCount,
    identity: {
      clusterId: uuidText(bytes.subarray(offset + 16, offset + 32)) as ClusterId,
      peerId: uuidText(bytes.subarray(offset + 32, offset + 48)) as PeerId,
      segmentBytes: view.getUint32(offset + 64, true),
      unitBytes: view.getUint32(offset + 68, true),
      storeSeed: view.getUint32(offset + 72, true),
    },
  };
}

function isRecord(image: NativeBuffer, offset: number, seed: number): boolean {
  const crc = Bun.hash.crc32(image.bytes.subarray(offset + 4, offset + RECORD_BYTES), seed);
  return crc === image.view.getUint32(offset, true);
}

function isRecordOf(
  image: NativeBuffer,
  offset: number,
  seed: number,
  generation: number,
  sequence: number,
): boolean {
  return (
    isRecord(image, offset, seed) &&
    image.view.getUint32(offset + 8, true) === generation &&
    image.view.getUint32(offset + 12, true) === sequence
  );
}

/** The generation whose snapshot the area's first record calls durable, or 0. */
function sealedGeneration(image: NativeBuffer, areaOffset: number, seed: number): number {
  const offset = areaOffset + METADATA_PAGE_BYTES;
  if (!isRecord(image, offset, seed) || image.bytes[offset + 4] !== Kind.sealed) return 0;
  return image.view.getUint32(offset + 8, true);
}
