/**
 * The Disk of a directory: fixed-size files with their space reserved by fallocate, written by pwrite, read by pread
 * or through a shared mapping. Never written through the mapping: on a disk that is eleven times slower, and a page
 * that the full file system cannot back would kill the process.
 *
 * A file gets its name only when it is complete and durable (made under `.tmp`, synced, renamed, directory synced).
 */
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import type { NativeBuffer } from "../buffer";
import {
  type Disk,
  type DiskEntry,
  DiskError,
  type DiskFile,
  type DiskOperation,
  DiskStatus,
  SECTOR_BYTES,
} from "../disk";
import { assert } from "../errors";
import { mapFile } from "./file-mapping";
import { C, errnoName, libc } from "./libc";
import { nativeBuffer } from "./memory";
import { type Syncer, writeFile } from "./sync-channel";

const EDQUOT = 122;
const EOPNOTSUPP = 95;
const TMPFS_MAGIC = 0x01021994;
/** Written ahead at once; a sync that comes meanwhile waits about a millisecond for it. */
const zeros = nativeBuffer(256 * 1024);
const LOCK_NAME = "lock";
const TEMPORARY_SUFFIX = ".tmp";

export interface DirectoryDiskOptions {
  /** Made when it does not exist. */
  readonly path: string;
  readonly syncer: Syncer;
  /** Read through mappings (default), or always by copying. */
  readonly mapFiles?: boolean;
}

export function openDirectoryDisk(options: DirectoryDiskOptions): Disk {
  return new DirectoryDisk(options);
}

class DirectoryDisk implements Disk {
  readonly description: string;
  readonly unitBytes = SECTOR_BYTES;
  readonly #files = new Map<string, FdFile>();
  readonly #syncer: Syncer;
  readonly #mapFiles: boolean;
  #lockFile: number | undefined;

  constructor(options: DirectoryDiskOptions) {
    this.description = options.path;
    this.#syncer = options.syncer;
    this.#mapFiles = options.mapFiles ?? true;
  }

  lock(): void {
    assert(this.#lockFile === undefined, `${this.description} is locked twice`);
    try {
      mkdirSync(this.description, { recursive: true });
    } catch (error) {
      throw this.#failure("make data directory", this.description, error);
    }
    const path = join(this.description, LOCK_NAME);
    const file = this.#attempt("open", path, () => openSync(path, "a+"));
    const result = libc.flock(file, C.LOCK_EX | C.LOCK_NB);
    if (result < 0) {
      const holder = readFileSync(path, "utf8").trim();
      closeSync(file);
      if (result !== -C.EAGAIN)
        throw new DiskError("disk-failed", `Cannot lock ${path}: ${errnoName(result)}`);
      throw new DiskError(
        "disk-in-use",
        `Cannot use data directory ${this.description}: ${holder === "" ? "another process" : `process ${holder}`} has it open; stop that one or use another data directory`,
      );
    }
    ftruncateSync(file, 0);
    writeSync(file, `${process.pid}\n`);
    this.#lockFile = file;
  }

  list(): readonly DiskEntry[] {
    const entries: DiskEntry[] = [];
    for (const entry of readdirSync(this.description, { withFileTypes: true }))
      if (entry.isFile() && entry.name !== LOCK_NAME && !entry.name.endsWith(TEMPORARY_SUFFIX))
        entries.push({ name: entry.name, sizeBytes: statSync(join(this.description, entry.name)).size });
    return entries;
  }

  open(name: string): DiskFile {
    const opened = this.#files.get(name);
    if (opened !== undefined) return opened;
    const path = join(this.description, name);
    const fd = libc.open(path, C.O_RDWR | C.O_CLOEXEC, 0);
    if (fd < 0) throw new DiskError("disk-failed", `Cannot open ${path}: ${errnoName(fd)}`);
    const isInMemory = statfsSync(this.description).type === TMPFS_MAGIC;
    const file = new FdFile(name, fd, statSync(path).size, this.#syncer, this.#mapFiles, !isInMemory);
    this.#files.set(name, file);
    return file;
  }

  create(name: string, sizeBytes: number, headBytes: number): DiskFile {
    const path = join(this.description, name);
    const temporary = path + TEMPORARY_SUFFIX;
    rmSync(temporary, { force: true });
    const fd = libc.open(temporary, C.O_RDWR | C.O_CREAT | C.O_EXCL | C.O_CLOEXEC, 0o640);
    if (fd < 0) throw new DiskError("disk-failed", `Cannot create ${temporary}: ${errnoName(fd)}`);
    let result = this.#reserve(fd, sizeBytes, headBytes);
    if (result >= 0) result = libc.fsync(fd);
    libc.close(fd);
    if (result < 0) {
      rmSync(temporary, { force: true });
      const isFull = result === -C.ENOSPC || result === -EDQUOT;
      throw new DiskError(
        isFull ? "disk-full" : "disk-failed",
        `Cannot reserve ${sizeBytes} bytes for ${path}: ${errnoName(result)}${isFull ? "; free space there or give the store a smaller size" : ""}`,
      );
    }
    this.#attempt("create", path, () => renameSync(temporary, path));
    this.#syncDirectory();
    return this.open(name);
  }

  remove(name: string): void {
    this.#files.get(name)?.close();
    this.#files.delete(name);
    const path = join(this.description, name);
    this.#attempt("remove", path, () => rmSync(path));
    this.#syncDirectory();
  }

  close(): void {
    for (const file of this.#files.values()) file.close();
    this.#files.clear();
    if (this.#lockFile !== undefined) closeSync(this.#lockFile);
    this.#lockFile = undefined;
  }

  #reserve(fd: number, sizeBytes: number, headBytes: number): number {
    const fileSystem = statfsSync(this.description);
    // In memory, reserving means clearing: a second for each GiB, while the loop waits.
    if (fileSystem.type === TMPFS_MAGIC) {
      if (sizeBytes > fileSystem.bavail * fileSystem.bsize) return -C.ENOSPC;
      const result = libc.fallocate(fd, 0, 0, headBytes);
      return result < 0 ? result : libc.ftruncate(fd, sizeBytes);
    }
    const result = libc.fallocate(fd, 0, 0, sizeBytes);
    // A file system without reservation: the file is sparse, and a full disk shows when it is written.
    return result === -EOPNOTSUPP ? libc.ftruncate(fd, sizeBytes) : result;
  }

  #syncDirectory(): void {
    const fd = libc.open(this.description, C.O_RDONLY | C.O_DIRECTORY | C.O_CLOEXEC, 0);
    const result = fd < 0 ? fd : libc.fsync(fd);
    if (fd >= 0) libc.close(fd);
    if (result < 0)
      throw new DiskError("disk-failed", `Cannot sync ${this.description}: ${errnoName(result)}`);
  }

  #attempt<Result>(action: string, path: string, work: () => Result): Result {
    try {
      return work();
    } catch (error) {
      throw this.#failure(action, path, error);
    }
  }

  #failure(action: string, path: string, cause: unknown): DiskError {
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : String(cause);
    return new DiskError("disk-failed", `Cannot ${action} ${path}: ${code}`, { cause });
  }
}

/** A file by its descriptor, which stays open while a sync of it is under way. */
class FdFile implements DiskFile {
  #pendingSyncs = 0;
  #isClosed = false;
  #mapping: NativeBuffer | undefined;
  readonly zero?: NonNullable<DiskFile["zero"]>;

  constructor(
    readonly name: string,
    private readonly fd: number,
    readonly sizeBytes: number,
    private readonly syncer: Syncer,
    private readonly isMappable: boolean,
    isZeroingUseful: boolean,
  ) {
    if (isZeroingUseful)
      this.zero = (fileOffsetBytes, lengthBytes, done) => {
        assert(lengthBytes <= zeros.bytes.length, `cannot zero ${lengthBytes} bytes at once`);
        this.#pendingSyncs += 1;
        this.syncer.writeOut(this.fd, zeros.address, lengthBytes, fileOffsetBytes, (result) =>
          this.#finish(result, done),
        );
      };
  }

  write(
    _operation: DiskOperation,
    fileOffsetBytes: number,
    source: NativeBuffer,
    sourceOffsetBytes: number,
    lengthBytes: number,
  ): DiskStatus {
    if (source.address === 0) assert(false, `${this.name} is written from memory without an address`);
    if (fileOffsetBytes + lengthBytes > this.sizeBytes)
      assert(false, `${this.name} is written beyond its end`);
    const result = writeFile(this.fd, source.address + sourceOffsetBytes, lengthBytes, fileOffsetBytes);
    return result < 0 ? statusOf(result) : DiskStatus.ok;
  }

  read(
    _operation: DiskOperation,
    fileOffsetBytes: number,
    destination: NativeBuffer,
    destinationOffsetBytes: number,
    lengthBytes: number,
  ): DiskStatus {
    if (destination.address === 0) assert(false, `${this.name} is read into memory without an address`);
    let done = 0;
    while (done < lengthBytes) {
      const count = libc.pread(
        this.fd,
        destination.address + destinationOffsetBytes + done,
        lengthBytes - done,
        fileOffsetBytes + done,
      );
      if (count > 0) done += count;
      else if (count !== -C.EINTR) return DiskStatus.ioError;
    }
    return DiskStatus.ok;
  }

  sync(_operation: DiskOperation, done: (status: DiskStatus) => void): void {
    this.#pendingSyncs += 1;
    this.syncer.sync(this.fd, (result) => this.#finish(result, done));
  }

  #finish(result: number, done: (status: DiskStatus) => void): void {
    this.#pendingSyncs -= 1;
    if (!this.#isClosed) done(result < 0 ? statusOf(result) : DiskStatus.ok);
    else if (this.#pendingSyncs === 0) libc.close(this.fd);
  }

  map(): NativeBuffer | undefined {
    if (!this.isMappable) return undefined;
    this.#mapping ??= mapFile(this.fd, this.name, this.sizeBytes);
    return this.#mapping;
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#mapping = undefined;
    if (this.#pendingSyncs === 0) libc.close(this.fd);
  }
}

function statusOf(result: number): DiskStatus {
  return result === -C.ENOSPC || result === -EDQUOT ? DiskStatus.noSpace : DiskStatus.ioError;
}
