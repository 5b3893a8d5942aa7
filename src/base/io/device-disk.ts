/**
 * The Disk of a raw block device (or one large file that stands for one), without a file system and past the page
 * cache (O_DIRECT). Files are ranges of the device, listed in a directory at its start; two copies of it alternate,
 * so that one is always whole.
 *
 *   | offset | size  | holds                                                                  |
 *   |--------|-------|------------------------------------------------------------------------|
 *   | 0      | 1 MiB | directory, when its generation is even                                 |
 *   | 1 MiB  | 1 MiB | directory, when its generation is odd                                  |
 *   | 2 MiB  |       | files, each starting at a multiple of 4 KiB                            |
 *
 * Directory (little-endian): 0 magic "TDEVICE1"; 8 CRC32 of [12, 32 + 48 n); 12 generation u32; 16 n u32; 20 zero;
 * then n entries: name 32 bytes (zero-filled), offset u64, length u64.
 *
 * A write is copied and kept until a sync, which hands everything kept to the sync thread in order and then flushes
 * the device; neighbours are joined, so that a turn of small puts is one write. Reads look into what is kept first.
 * A write on the device could take a millisecond: this way the loop never waits for one. It does wait for reads.
 */
import { statSync } from "node:fs";
import type { AllocateBuffer, NativeBuffer } from "../buffer";
import { type Disk, type DiskEntry, DiskError, type DiskFile, type DiskOperation, DiskStatus } from "../disk";
import { assert } from "../errors";
import { C, errnoName, libc } from "./libc";
import { copyBuffer, nativeBuffer } from "./memory";
import { type Syncer, writeFile } from "./sync-channel";
import { WriteBehind } from "./write-behind";

const DIRECTORY_BYTES = 1024 * 1024;
const FILES_OFFSET = 2 * DIRECTORY_BYTES;
const HEADER_BYTES = 32;
const ENTRY_BYTES = 48;
const NAME_BYTES = 32;
const FILE_ALIGNMENT = 4096;
const MAGIC = Buffer.from("TDEVICE1");
/** Everything that marks a disk as somebody's lies in its first or last MiB. */
const FOREIGN_BYTES = 1024 * 1024;
const ZERO_BYTES = 1024 * 1024;
const BOUNCE_BYTES = 1024 * 1024;
const BLKSSZGET = 0x1268;
const BLKGETSIZE64 = 0x80081272;
const S_IFMT = 0o170000;
const S_IFBLK = 0o060000;

export interface DeviceDiskOptions {
  /** `/dev/sdb`, or a file of fixed size. */
  readonly path: string;
  readonly syncer: Syncer;
  /** Take the device though it holds something else, which is lost. */
  readonly overwriteForeign?: boolean;
  /** For a file that stands for a device with 4 KiB sectors. */
  readonly unitBytes?: number;
  readonly allocate?: AllocateBuffer;
}

/** Bytes of a block device (or of a file) that files on it can take; throws DiskError. */
export function deviceBytes(path: string): number {
  const fd = openDevice(path, C.O_RDONLY | C.O_CLOEXEC);
  try {
    const roomBytes = sizeOf(fd, path) - FILES_OFFSET;
    return Math.max(0, roomBytes - (roomBytes % FILE_ALIGNMENT));
  } finally {
    libc.close(fd);
  }
}

export function openDeviceDisk(options: DeviceDiskOptions): Disk {
  return new DeviceDisk(options);
}

interface Range {
  readonly name: string;
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

class DeviceDisk implements Disk {
  readonly description: string;
  readonly #options: DeviceDiskOptions;
  readonly #syncer: Syncer;
  readonly #allocate: AllocateBuffer;
  #fd = -1;
  #unitBytes = 512;
  #sizeBytes = 0;
  #generation = 0;
  #ranges: Range[] = [];
  #writes!: WriteBehind;
  #bounce!: NativeBuffer;

  constructor(options: DeviceDiskOptions) {
    this.description = options.path;
    this.#options = options;
    this.#syncer = options.syncer;
    this.#allocate = options.allocate ?? nativeBuffer;
  }

  get unitBytes(): number {
    return this.#unitBytes;
  }

  lock(): void {
    assert(this.#fd < 0, `${this.description} is locked twice`);
    const { path } = this.#options;
    const isBlockDevice = isDevice(path);
    // For a block device O_EXCL means: not mounted, and nobody else's either.
    const exclusive = isBlockDevice ? C.O_EXCL : 0;
    const fd = openDevice(path, C.O_RDWR | C.O_DIRECT | C.O_CLOEXEC | exclusive);
    try {
      const locked = libc.flock(fd, C.LOCK_EX | C.LOCK_NB);
      if (locked === -C.EAGAIN) throw inUse(path);
      if (locked < 0) throw new DiskError("disk-failed", `Cannot lock ${path}: ${errnoName(locked)}`);
      this.#unitBytes = this.#options.unitBytes ?? (isBlockDevice ? sectorBytes(fd, path) : 512);
      this.#sizeBytes = sizeOf(fd, path);
      this.#fd = fd;
      this.#bounce = this.#allocate(BOUNCE_BYTES);
      this.#writes = new WriteBehind(fd, this.#syncer, this.#unitBytes, this.#allocate);
      this.#readDirectory();
    } catch (error) {
      libc.close(fd);
      this.#fd = -1;
      throw error;
    }
  }

  list(): readonly DiskEntry[] {
    return this.#ranges.map(({ name, sizeBytes }) => ({ name, sizeBytes }));
  }

  open(name: string): DiskFile {
    const range = this.#ranges.find((each) => each.name === name);
    if (range === undefined)
      throw new DiskError("disk-failed", `Cannot open ${name} on ${this.description}: it is not there`);
    return new DeviceFile(this, range.name, range.offsetBytes, range.sizeBytes);
  }

  create(name: string, sizeBytes: number, headBytes: number): DiskFile {
    assert(Buffer.byteLength(name) <= NAME_BYTES, `the name ${name} is too long`);
    const offsetBytes = this.#findRoom(sizeBytes);
    const isFull = HEADER_BYTES + (this.#ranges.length + 1) * ENTRY_BYTES > DIRECTORY_BYTES;
    if (offsetBytes === undefined || isFull)
      throw new DiskError(
        "disk-full",
        `Cannot reserve ${sizeBytes} bytes for ${name} on ${this.description}: the device has ${this.#sizeBytes} bytes; give the store a smaller size`,
      );
    this.#zero(offsetBytes, headBytes);
    this.#ranges = [...this.#ranges, { name, offsetBytes, sizeBytes }];
    this.#writeDirectory();
    return this.open(name);
  }

  remove(name: string): void {
    this.#ranges = this.#ranges.filter((range) => range.name !== name);
    this.#writeDirectory();
  }

  close(): void {
    const fd = this.#fd;
    if (fd < 0) return;
    this.#fd = -1;
    // Jobs under way still use the descriptor.
    this.#writes.close(() => libc.close(fd));
  }

  // For DeviceFile.

  write(
    isData: boolean,
    offsetBytes: number,
    source: NativeBuffer,
    sourceOffset: number,
    lengthBytes: number,
  ): DiskStatus {
    return this.#writes.add(isData, offsetBytes, source, sourceOffset, lengthBytes)
      ? DiskStatus.ok
      : DiskStatus.ioError;
  }

  read(
    offsetBytes: number,
    destination: NativeBuffer,
    destinationOffset: number,
    lengthBytes: number,
  ): DiskStatus {
    let done = 0;
    while (done < lengthBytes) {
      const from = offsetBytes + done;
      const start = from - (from % this.#unitBytes);
      const skip = from - start;
      const length = Math.min(BOUNCE_BYTES - skip, lengthBytes - done);
      const alignedLength = Math.ceil((skip + length) / this.#unitBytes) * this.#unitBytes;
      if (!this.#readAligned(start, alignedLength)) return DiskStatus.ioError;
      copyBuffer(destination, destinationOffset + done, this.#bounce, skip, length);
      done += length;
    }
    return DiskStatus.ok;
  }

  sync(done: (status: DiskStatus) => void): void {
    this.#writes.sync((result) => {
      if (this.#fd >= 0) done(result < 0 ? DiskStatus.ioError : DiskStatus.ok);
    });
  }

  /** Into the bounce buffer, what is kept for writing laid over what the device has. */
  #readAligned(offsetBytes: number, lengthBytes: number): boolean {
    if (!this.#writes.covers(offsetBytes, lengthBytes))
      for (let done = 0; done < lengthBytes; ) {
        const count = libc.pread(
          this.#fd,
          this.#bounce.address + done,
          lengthBytes - done,
          offsetBytes + done,
        );
        if (count > 0) done += count;
        else if (count !== -C.EINTR) return false;
      }
    this.#writes.overlay(offsetBytes, lengthBytes, this.#bounce);
    return true;
  }

  // -------------------------------------------------------------------------------------------------------------

  #findRoom(sizeBytes: number): number | undefined {
    const taken = [...this.#ranges].sort((a, b) => a.offsetBytes - b.offsetBytes);
    let start = FILES_OFFSET;
    for (const range of taken) {
      if (range.offsetBytes - start >= sizeBytes) return start;
      start = Math.ceil((range.offsetBytes + range.sizeBytes) / FILE_ALIGNMENT) * FILE_ALIGNMENT;
    }
    return this.#sizeBytes - start >= sizeBytes ? start : undefined;
  }

  #zero(offsetBytes: number, lengthBytes: number): void {
    const zeros = this.#allocate(Math.min(ZERO_BYTES, lengthBytes));
    for (let done = 0; done < lengthBytes; done += ZERO_BYTES)
      this.#writeNow(offsetBytes + done, zeros, Math.min(ZERO_BYTES, lengthBytes - done));
  }

  /** Writes and waits; for what happens once. */
  #writeNow(offsetBytes: number, source: NativeBuffer, lengthBytes: number): void {
    const result = writeFile(this.#fd, source.address, lengthBytes, offsetBytes);
    if (result < 0)
      throw new DiskError("disk-failed", `Cannot write ${this.description}: ${errnoName(result)}`);
  }

  #readDirectory(): void {
    const copies = [0, 1].map((copy) => {
      const image = this.#allocate(DIRECTORY_BYTES);
      for (let done = 0; done < DIRECTORY_BYTES; ) {
        const offset = copy * DIRECTORY_BYTES + done;
        const count = libc.pread(this.#fd, image.address + done, DIRECTORY_BYTES - done, offset);
        if (count <= 0)
          throw new DiskError("disk-failed", `Cannot read ${this.description}: ${errnoName(count)}`);
        done += count;
      }
      return parseDirectory(image);
    });
    const [first, second] = copies;
    const newest =
      first !== undefined && (second === undefined || first.generation > second.generation) ? first : second;
    if (newest === undefined) {
      this.#refuseForeign();
      this.#generation = 0;
      this.#ranges = [];
      // Both copies: whatever was there is not to come back.
      this.#writeDirectory();
      this.#writeDirectory();
      return;
    }
    this.#generation = newest.generation;
    this.#ranges = newest.ranges;
  }

  #refuseForeign(): void {
    if (this.#options.overwriteForeign === true) return;
    const last = this.#sizeBytes - FOREIGN_BYTES - (this.#sizeBytes % FILE_ALIGNMENT);
    for (const offset of [0, FOREIGN_BYTES, last]) {
      if (!this.#readAligned(offset, FOREIGN_BYTES))
        throw new DiskError("disk-failed", `Cannot read ${this.description}`);
      if (this.#bounce.bytes.subarray(0, FOREIGN_BYTES).every((byte) => byte === 0)) continue;
      throw new DiskError(
        "disk-foreign",
        `Cannot use ${this.description}: it holds ${offset === 0 ? signatureOf(this.#bounce.bytes) : "data of something else"}; give another device, or lose what it holds with --force-format`,
      );
    }
  }

  #writeDirectory(): void {
    const lengthBytes = Math.ceil((HEADER_BYTES + this.#ranges.length * ENTRY_BYTES) / 4096) * 4096;
    const image = this.#allocate(lengthBytes);
    this.#generation += 1;
    encodeDirectory(image, this.#generation, this.#ranges);
    this.#writeNow((this.#generation % 2) * DIRECTORY_BYTES, image, lengthBytes);
    const result = libc.fdatasync(this.#fd);
    if (result < 0)
      throw new DiskError("disk-failed", `Cannot sync ${this.description}: ${errnoName(result)}`);
  }
}

class DeviceFile implements DiskFile {
  constructor(
    private readonly disk: DeviceDisk,
    readonly name: string,
    private readonly startBytes: number,
    readonly sizeBytes: number,
  ) {}

  write(
    operation: DiskOperation,
    fileOffsetBytes: number,
    source: NativeBuffer,
    sourceOffsetBytes: number,
    lengthBytes: number,
  ): DiskStatus {
    if (fileOffsetBytes + lengthBytes > this.sizeBytes)
      assert(false, `${this.name} is written beyond its end`);
    const isData = operation === "data.write";
    return this.disk.write(isData, this.startBytes + fileOffsetBytes, source, sourceOffsetBytes, lengthBytes);
  }

  read(
    _operation: DiskOperation,
    fileOffsetBytes: number,
    destination: NativeBuffer,
    destinationOffsetBytes: number,
    lengthBytes: number,
  ): DiskStatus {
    if (fileOffsetBytes + lengthBytes > this.sizeBytes) return DiskStatus.ioError;
    return this.disk.read(
      this.startBytes + fileOffsetBytes,
      destination,
      destinationOffsetBytes,
      lengthBytes,
    );
  }

  sync(_operation: DiskOperation, done: (status: DiskStatus) => void): void {
    this.disk.sync(done);
  }

  /** O_DIRECT and the page cache do not go together. */
  map(): undefined {
    return undefined;
  }
}

function parseDirectory(image: NativeBuffer): { generation: number; ranges: Range[] } | undefined {
  const { bytes, view } = image;
  if (MAGIC.compare(bytes, 0, MAGIC.length) !== 0) return undefined;
  const count = view.getUint32(16, true);
  const end = HEADER_BYTES + count * ENTRY_BYTES;
  if (end > bytes.length || view.getUint32(8, true) !== Bun.hash.crc32(bytes.subarray(12, end)))
    return undefined;
  const ranges: Range[] = [];
  for (let offset = HEADER_BYTES; offset < end; offset += ENTRY_BYTES) {
    const name = Buffer.from(bytes.subarray(offset, offset + NAME_BYTES))
      .toString()
      .replace(/\0+$/, "");
    ranges.push({
      name,
      offsetBytes: Number(view.getBigUint64(offset + NAME_BYTES, true)),
      sizeBytes: Number(view.getBigUint64(offset + NAME_BYTES + 8, true)),
    });
  }
  return { generation: view.getUint32(12, true), ranges };
}

function encodeDirectory(image: NativeBuffer, generation: number, ranges: readonly Range[]): void {
  const { bytes, view } = image;
  bytes.set(MAGIC, 0);
  view.setUint32(12, generation, true);
  view.setUint32(16, ranges.length, true);
  let offset = HEADER_BYTES;
  for (const range of ranges) {
    bytes.set(Buffer.from(range.name), offset);
    view.setBigUint64(offset + NAME_BYTES, BigInt(range.offsetBytes), true);
    view.setBigUint64(offset + NAME_BYTES + 8, BigInt(range.sizeBytes), true);
    offset += ENTRY_BYTES;
  }
  view.setUint32(8, Bun.hash.crc32(bytes.subarray(12, offset)), true);
}

/** A guess at what the first MiB of a disk belongs to, for the message. */
function signatureOf(bytes: Uint8Array): string {
  const text = (offset: number, length: number) =>
    Buffer.from(bytes.subarray(offset, offset + length)).toString("latin1");
  if (bytes[1080] === 0x53 && bytes[1081] === 0xef) return "an ext file system";
  if (text(0, 4) === "XFSB") return "an XFS file system";
  if (text(65_600, 8) === "_BHRfS_M") return "a btrfs file system";
  if (text(512, 8) === "EFI PART" || text(4096, 8) === "EFI PART") return "a GPT partition table";
  if (text(512, 8) === "LABELONE") return "an LVM volume";
  if (text(4086, 10) === "SWAPSPACE2") return "swap space";
  if (text(0, 6) === "LUKS\xba\xbe") return "a LUKS volume";
  if (bytes[510] === 0x55 && bytes[511] === 0xaa) return "a partition table";
  return "data of something else";
}

function openDevice(path: string, flags: number): number {
  const fd = libc.open(path, flags, 0);
  if (fd === -EBUSY) throw inUse(path);
  if (fd < 0) throw new DiskError("disk-failed", `Cannot open ${path}: ${errnoName(fd)}`);
  return fd;
}

const EBUSY = 16;

function inUse(path: string): DiskError {
  return new DiskError(
    "disk-in-use",
    `Cannot use ${path}: it is mounted or another process has it open; unmount it, stop that process or give another device`,
  );
}

function sizeOf(fd: number, path: string): number {
  if (!isDevice(path)) {
    const end = statBytes(path);
    return end - (end % FILE_ALIGNMENT);
  }
  const words = nativeBuffer(8);
  const result = libc.ioctl(fd, BLKGETSIZE64, words.address);
  if (result < 0) throw new DiskError("disk-failed", `Cannot tell the size of ${path}: ${errnoName(result)}`);
  const bytes = Number(words.view.getBigUint64(0, true));
  return bytes - (bytes % FILE_ALIGNMENT);
}

function sectorBytes(fd: number, path: string): number {
  const words = nativeBuffer(4);
  const result = libc.ioctl(fd, BLKSSZGET, words.address);
  const bytes = words.words[0] as number;
  if (result < 0 || (bytes !== 512 && bytes !== 4096))
    throw new DiskError(
      "disk-failed",
      `Cannot use ${path}: its sectors have ${bytes} bytes, not 512 or 4096`,
    );
  return bytes;
}

function isDevice(path: string): boolean {
  return (modeOf(path) & S_IFMT) === S_IFBLK;
}

function modeOf(path: string): number {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) throw new DiskError("disk-failed", `Cannot open ${path}: ENOENT`);
  return found.mode;
}

function statBytes(path: string): number {
  return statSync(path).size;
}
