import { expect, test } from "bun:test";
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { C, errnoName, IoError, libc, must, nativeBuffer, systemError } from "../../../../src/base/io";

test("a failed system call returns its own negative errno", () => {
  expect(libc.open("/nonexistent/file", C.O_RDONLY, 0)).toBe(-2);
  expect(libc.close(-1)).toBe(-9);
  expect(libc.mmap(0, C.PROT_READ, C.MAP_PRIVATE | C.MAP_ANONYMOUS, -1, 0)).toBe(-22);
  expect(libc.recv(-1, 0, 0, 0)).toBe(-9);
});

test("must names the action, the errno and its meaning", () => {
  expect(must("do it", 3)).toBe(3);
  let caught: unknown;
  try {
    must("sync /data/blocks-0", -28);
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(IoError);
  expect((caught as IoError).message).toBe("Cannot sync /data/blocks-0: ENOSPC (No space left on device)");
  expect((caught as IoError).errno).toBe(28);
  expect(systemError("x", -9999).message).toContain("errno 9999");
  expect(errnoName(-104)).toBe("ECONNRESET");
});

test("lseek finds data and holes of a sparse file", () => {
  const folder = mkdtempSync(join(tmpdir(), "torus-libc-"));
  const file = openSync(join(folder, "sparse"), "w+");
  ftruncateSync(file, 6 * 2 ** 30);
  writeSync(file, new Uint8Array(65536).fill(7), 0, 65536, 5 * 2 ** 30);
  expect(libc.lseek(file, 0, C.SEEK_DATA)).toBe(5 * 2 ** 30);
  expect(libc.lseek(file, 5 * 2 ** 30, C.SEEK_HOLE)).toBe(5 * 2 ** 30 + 65536);
  expect(libc.lseek(file, 5 * 2 ** 30 + 65536, C.SEEK_DATA)).toBe(-C.ENXIO);
  closeSync(file);
  rmSync(folder, { recursive: true });
});

test("pwrite and pread move bytes beyond 4 GiB, and fallocate, ftruncate, flock and syncs work", () => {
  const folder = mkdtempSync(join(tmpdir(), "torus-libc-"));
  try {
    const file = must("open", libc.open(join(folder, "f"), C.O_RDWR | C.O_CREAT | C.O_CLOEXEC, 0o600));
    const buffer = nativeBuffer(8192);
    buffer.bytes.fill(0xa5);
    const farBytes = 5 * 2 ** 30;
    expect(libc.pwrite(file, buffer.address, 4096, farBytes)).toBe(4096);
    buffer.bytes.fill(0);
    expect(libc.pread(file, buffer.address + 4096, 4096, farBytes)).toBe(4096);
    expect(buffer.bytes[4095]).toBe(0);
    expect(buffer.bytes[4096]).toBe(0xa5);
    expect(libc.ftruncate(file, 8192)).toBe(0);
    expect(libc.fallocate(file, 0, 0, 65536)).toBe(0);
    expect(libc.pread(file, buffer.address, 8192, 65536)).toBe(0);
    expect(libc.flock(file, C.LOCK_EX | C.LOCK_NB)).toBe(0);
    const second = must("open", libc.open(join(folder, "f"), C.O_RDWR | C.O_CLOEXEC, 0));
    expect(libc.flock(second, C.LOCK_EX | C.LOCK_NB)).toBe(-C.EAGAIN);
    expect(libc.fdatasync(file)).toBe(0);
    expect(libc.fsync(file)).toBe(0);
    libc.close(second);
    libc.close(file);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
