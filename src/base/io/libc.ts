/**
 * The system calls torus makes itself, bound to glibc by bun:ffi in this one place. Every wrapper follows the
 * kernel's convention: a result of zero or more, or the negative errno (`-ENOSPC`). errno is read right after the
 * call, from this thread's own location seen as an array, before any other JavaScript can run; callers therefore
 * never touch it. A wrapper that makes a system call costs about 0.15 us.
 *
 * Addresses are plain numbers (NativeBuffer.address plus an offset); the caller keeps the memory alive.
 */
import { CString, dlopen, FFIType, type Pointer, toArrayBuffer } from "bun:ffi";
import { ERRNO_NAMES } from "./errno";
import { IoError } from "./errors";

const fd = "i32";
const int = "i32";
const pointer = "ptr";
const size = FFIType.u64_fast;
const offset = FFIType.i64_fast;

const { symbols } = dlopen("libc.so.6", {
  __errno_location: { args: [], returns: pointer },
  accept4: { args: [fd, pointer, pointer, int], returns: int },
  bind: { args: [fd, pointer, int], returns: int },
  clock_gettime: { args: [int, pointer], returns: int },
  close: { args: [fd], returns: int },
  connect: { args: [fd, pointer, int], returns: int },
  epoll_create1: { args: [int], returns: int },
  epoll_ctl: { args: [fd, int, fd, pointer], returns: int },
  epoll_wait: { args: [fd, pointer, int, int], returns: int },
  eventfd: { args: ["u32", int], returns: int },
  fallocate: { args: [fd, int, offset, offset], returns: int },
  fcntl: { args: [fd, int, offset], returns: int },
  fdatasync: { args: [fd], returns: int },
  flock: { args: [fd, int], returns: int },
  fsync: { args: [fd], returns: int },
  ftruncate: { args: [fd, offset], returns: int },
  getpeername: { args: [fd, pointer, pointer], returns: int },
  getsockname: { args: [fd, pointer, pointer], returns: int },
  getsockopt: { args: [fd, int, int, pointer, pointer], returns: int },
  ioctl: { args: [fd, size, size], returns: int },
  listen: { args: [fd, int], returns: int },
  lseek: { args: [fd, offset, int], returns: offset },
  madvise: { args: [pointer, size, int], returns: int },
  memcpy: { args: [pointer, pointer, size], returns: pointer },
  memmove: { args: [pointer, pointer, size], returns: pointer },
  mmap: { args: [pointer, size, int, int, fd, offset], returns: pointer },
  munmap: { args: [pointer, size], returns: int },
  open: { args: [pointer, int, int], returns: int },
  pread: { args: [fd, pointer, size, offset], returns: offset },
  pwrite: { args: [fd, pointer, size, offset], returns: offset },
  read: { args: [fd, pointer, size], returns: offset },
  readv: { args: [fd, pointer, int], returns: offset },
  recv: { args: [fd, pointer, size, int], returns: offset },
  sched_getaffinity: { args: [int, size, pointer], returns: int },
  sched_getscheduler: { args: [int], returns: int },
  sched_setaffinity: { args: [int, size, pointer], returns: int },
  sched_setscheduler: { args: [int, int, pointer], returns: int },
  sched_yield: { args: [], returns: int },
  send: { args: [fd, pointer, size, int], returns: offset },
  sendmsg: { args: [fd, pointer, int], returns: offset },
  setsockopt: { args: [fd, int, int, pointer, int], returns: int },
  shutdown: { args: [fd, int], returns: int },
  socket: { args: [int, int, int], returns: int },
  socketpair: { args: [int, int, int, pointer], returns: int },
  strerror: { args: [int], returns: pointer },
  sync_file_range: { args: [fd, offset, offset, "u32"], returns: int },
  timerfd_create: { args: [int, int], returns: fd },
  timerfd_settime: { args: [fd, int, pointer, pointer], returns: int },
  unlink: { args: [pointer], returns: int },
  write: { args: [fd, pointer, size], returns: offset },
});

const at = (address: number): Pointer => address as Pointer;
const errnoAddress = symbols.__errno_location();
if (errnoAddress === null)
  throw new IoError("system-call-failed", "Cannot find errno: libc gave no location");
const errnoWords = new Int32Array(toArrayBuffer(errnoAddress, 0, 4));
/** The result, or -errno. bun:ffi types 64-bit results as bigint too, though sizes below 2^53 come as numbers. */
function checked(result: number | bigint): number {
  return (result as number) < 0 ? -(errnoWords[0] as number) : (result as number);
}

/** A path as C wants it. */
export function cPath(path: string): Uint8Array {
  return Buffer.from(`${path}\0`);
}

/** `ENOSPC` for 28 or -28. */
export function errnoName(errno: number): string {
  return ERRNO_NAMES[Math.abs(errno)] ?? `errno ${Math.abs(errno)}`;
}

/** What a failed system call becomes: `Cannot sync /data/blocks-0: ENOSPC (No space left on device)`. */
export function systemError(action: string, errno: number): IoError {
  const text = symbols.strerror(Math.abs(errno));
  const meaning = text === null ? "" : ` (${new CString(text)})`;
  return new IoError("system-call-failed", `Cannot ${action}: ${errnoName(errno)}${meaning}`, {
    errno: Math.abs(errno),
  });
}

/** Passes a result through, or throws `systemError(action)`. For cold paths; hot ones test the sign themselves. */
export function must(action: string, result: number): number {
  if (result < 0) throw systemError(action, result);
  return result;
}

export const libc = {
  accept4: (listener: number, flags: number) => checked(symbols.accept4(listener, null, null, flags)),
  bind: (socket: number, address: Uint8Array) => checked(symbols.bind(socket, address, address.length)),
  clockGettime: (clock: number, address: number) => checked(symbols.clock_gettime(clock, at(address))),
  close: (file: number) => checked(symbols.close(file)),
  connect: (socket: number, address: Uint8Array) => checked(symbols.connect(socket, address, address.length)),
  epollCreate: () => checked(symbols.epoll_create1(EPOLL_CLOEXEC)),
  epollCtl: (epoll: number, operation: number, file: number, event: number) =>
    checked(symbols.epoll_ctl(epoll, operation, file, at(event))),
  epollWait: (epoll: number, events: number, eventCountMax: number, timeoutMs: number) =>
    checked(symbols.epoll_wait(epoll, at(events), eventCountMax, timeoutMs)),
  eventfd: (initial: number, flags: number) => checked(symbols.eventfd(initial, flags)),
  /** fallocate(2); mode 0 reserves space, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE gives it back. */
  fallocate: (file: number, mode: number, offsetBytes: number, lengthBytes: number) =>
    checked(symbols.fallocate(file, mode, offsetBytes, lengthBytes)),
  fcntl: (file: number, command: number, argument: number) => checked(symbols.fcntl(file, command, argument)),
  fdatasync: (file: number) => checked(symbols.fdatasync(file)),
  flock: (file: number, operation: number) => checked(symbols.flock(file, operation)),
  fsync: (file: number) => checked(symbols.fsync(file)),
  ftruncate: (file: number, lengthBytes: number) => checked(symbols.ftruncate(file, lengthBytes)),
  getpeername: (socket: number, address: Uint8Array, length: Int32Array) =>
    checked(symbols.getpeername(socket, address, length)),
  getsockname: (socket: number, address: Uint8Array, length: Int32Array) =>
    checked(symbols.getsockname(socket, address, length)),
  getsockopt: (socket: number, level: number, option: number, value: Int32Array, length: Int32Array) =>
    checked(symbols.getsockopt(socket, level, option, value, length)),
  /** The argument is a number or an address, as the request wants it. */
  ioctl: (file: number, request: number, argument: number) => checked(symbols.ioctl(file, request, argument)),
  listen: (socket: number, backlog: number) => checked(symbols.listen(socket, backlog)),
  /** whence SEEK_DATA or SEEK_HOLE finds where data or a hole begins; -ENXIO: no data from there on. */
  lseek: (file: number, offsetBytes: number, whence: number) =>
    checked(symbols.lseek(file, offsetBytes, whence)),
  madvise: (address: number, lengthBytes: number, advice: number) =>
    checked(symbols.madvise(at(address), lengthBytes, advice)),
  /** Cheaper than Uint8Array.set for long ranges of native memory; the ranges must not overlap. */
  memcpy: (to: number, from: number, lengthBytes: number): void => {
    symbols.memcpy(at(to), at(from), lengthBytes);
  },
  memmove: (to: number, from: number, lengthBytes: number): void => {
    symbols.memmove(at(to), at(from), lengthBytes);
  },
  /** The address, or -errno. */
  mmap: (lengthBytes: number, protection: number, flags: number, file: number, offsetBytes: number) => {
    const address = symbols.mmap(null, lengthBytes, protection, flags, file, offsetBytes) as number | null;
    // MAP_FAILED is (void*)-1, which arrives as 2^64-1 or -1; user addresses stay below 2^48.
    return address === null || address < 0 || address > 2 ** 48 ? -(errnoWords[0] as number) : address;
  },
  munmap: (address: number, lengthBytes: number) => checked(symbols.munmap(at(address), lengthBytes)),
  open: (path: string, flags: number, mode: number) => checked(symbols.open(cPath(path), flags, mode)),
  pread: (file: number, address: number, lengthBytes: number, offsetBytes: number) =>
    checked(symbols.pread(file, at(address), lengthBytes, offsetBytes)),
  pwrite: (file: number, address: number, lengthBytes: number, offsetBytes: number) =>
    checked(symbols.pwrite(file, at(address), lengthBytes, offsetBytes)),
  read: (file: number, address: number, lengthBytes: number) =>
    checked(symbols.read(file, at(address), lengthBytes)),
  readv: (file: number, iovecs: number, iovecCount: number) =>
    checked(symbols.readv(file, at(iovecs), iovecCount)),
  recv: (socket: number, address: number, lengthBytes: number, flags: number) =>
    checked(symbols.recv(socket, at(address), lengthBytes, flags)),
  schedGetaffinity: (thread: number, mask: Uint8Array) =>
    checked(symbols.sched_getaffinity(thread, mask.length, mask)),
  schedGetscheduler: (thread: number) => checked(symbols.sched_getscheduler(thread)),
  schedSetaffinity: (thread: number, mask: Uint8Array) =>
    checked(symbols.sched_setaffinity(thread, mask.length, mask)),
  /** For the policies without a priority. */
  schedSetscheduler: (thread: number, policy: number) =>
    checked(symbols.sched_setscheduler(thread, policy, noPriority)),
  /** Lets other threads that are ready have this one's core. */
  schedYield: () => symbols.sched_yield(),
  send: (socket: number, address: number, lengthBytes: number, flags: number) =>
    checked(symbols.send(socket, at(address), lengthBytes, flags)),
  sendmsg: (socket: number, message: number, flags: number) =>
    checked(symbols.sendmsg(socket, at(message), flags)),
  /** For options that are no number, such as a name. */
  setsockoptBytes: (socket: number, level: number, option: number, value: Uint8Array) =>
    checked(symbols.setsockopt(socket, level, option, value, value.length)),
  setsockopt: (socket: number, level: number, option: number, value: number) => {
    optionValue[0] = value;
    return checked(symbols.setsockopt(socket, level, option, optionValue, 4));
  },
  shutdown: (socket: number, how: number) => checked(symbols.shutdown(socket, how)),
  socket: (domain: number, type: number, protocol: number) => checked(symbols.socket(domain, type, protocol)),
  socketpair: (domain: number, type: number, pair: Int32Array) =>
    checked(symbols.socketpair(domain, type, 0, pair)),
  /** Starts or awaits writeback of a range without any promise of durability. */
  syncFileRange: (file: number, offsetBytes: number, lengthBytes: number, flags: number) =>
    checked(symbols.sync_file_range(file, offsetBytes, lengthBytes, flags)),
  timerfdCreate: (clock: number, flags: number) => checked(symbols.timerfd_create(clock, flags)),
  /** `specification`: a struct itimerspec; the time in it is absolute with TFD_TIMER_ABSTIME. */
  timerfdSettime: (file: number, flags: number, specification: number) =>
    checked(symbols.timerfd_settime(file, flags, at(specification), null)),
  unlink: (path: string) => checked(symbols.unlink(cPath(path))),
  write: (file: number, address: number, lengthBytes: number) =>
    checked(symbols.write(file, at(address), lengthBytes)),
} as const;

const optionValue = new Int32Array(1);
const noPriority = new Int32Array(1);
const EPOLL_CLOEXEC = 0o2000000;

/** Linux constants, the same on x86-64 and arm64 unless a line says otherwise. */
export const C = {
  AF_UNIX: 1,
  AF_INET: 2,
  AF_INET6: 10,
  SOCK_STREAM: 1,
  SOCK_NONBLOCK: 0o4000,
  SOCK_CLOEXEC: 0o2000000,
  SOL_SOCKET: 1,
  SO_REUSEADDR: 2,
  SO_ERROR: 4,
  SO_SNDBUF: 7,
  SO_RCVBUF: 8,
  SO_KEEPALIVE: 9,
  SO_INCOMING_CPU: 49,
  IPPROTO_TCP: 6,
  TCP_CONGESTION: 13,
  TCP_NODELAY: 1,
  TCP_KEEPIDLE: 4,
  TCP_KEEPINTVL: 5,
  TCP_KEEPCNT: 6,
  IPPROTO_IPV6: 41,
  IPV6_V6ONLY: 26,
  MSG_DONTWAIT: 0x40,
  MSG_NOSIGNAL: 0x4000,
  EPOLLIN: 1,
  EPOLLOUT: 4,
  EPOLLERR: 8,
  EPOLLHUP: 16,
  EPOLL_CTL_ADD: 1,
  EPOLL_CTL_DEL: 2,
  EPOLL_CTL_MOD: 3,
  EFD_NONBLOCK: 0o4000,
  EFD_CLOEXEC: 0o2000000,
  TFD_NONBLOCK: 0o4000,
  TFD_CLOEXEC: 0o2000000,
  TFD_TIMER_ABSTIME: 1,
  CLOCK_MONOTONIC: 1,
  CLOCK_BOOTTIME: 7,
  PROT_READ: 1,
  PROT_WRITE: 2,
  MAP_SHARED: 1,
  MAP_PRIVATE: 2,
  MAP_ANONYMOUS: 0x20,
  MAP_POPULATE: 0x8000,
  O_RDONLY: 0,
  O_WRONLY: 1,
  O_RDWR: 2,
  O_CREAT: 0o100,
  O_EXCL: 0o200,
  O_TRUNC: 0o1000,
  O_APPEND: 0o2000,
  O_NONBLOCK: 0o4000,
  O_DSYNC: 0o10000,
  O_CLOEXEC: 0o2000000,
  /** Differs by machine: arm64 swaps O_DIRECT and O_DIRECTORY. */
  O_DIRECT: process.arch === "arm64" ? 0o200000 : 0o40000,
  O_DIRECTORY: process.arch === "arm64" ? 0o40000 : 0o200000,
  SCHED_OTHER: 0,
  SCHED_BATCH: 3,
  LOCK_SH: 1,
  LOCK_EX: 2,
  LOCK_NB: 4,
  LOCK_UN: 8,
  F_GETFL: 3,
  F_SETFL: 4,
  FALLOC_FL_KEEP_SIZE: 1,
  FALLOC_FL_PUNCH_HOLE: 2,
  FALLOC_FL_ZERO_RANGE: 16,
  SYNC_FILE_RANGE_WAIT_BEFORE: 1,
  SYNC_FILE_RANGE_WRITE: 2,
  SYNC_FILE_RANGE_WAIT_AFTER: 4,
  SEEK_DATA: 3,
  SEEK_HOLE: 4,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  EAGAIN: 11,
  EACCES: 13,
  ENFILE: 23,
  EMFILE: 24,
  ENOSPC: 28,
  EADDRINUSE: 98,
  EADDRNOTAVAIL: 99,
  ECONNABORTED: 103,
  ECONNREFUSED: 111,
  EINPROGRESS: 115,
} as const;
