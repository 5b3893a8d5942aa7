/**
 * A program for the test machine: attaches a file to the kernel as an nbd device, through the real NBD server and the
 * real attach code. `nbd-attach FILE SIZE_BYTES IDENTIFIER METHOD [DEVICE]` prints `attached /dev/nbdN METHOD` or `took over ...`,
 * serves until SIGTERM, then detaches in order. SIGUSR1 lets the file grow by half.
 */
import type { NativeBuffer } from "../../../src/base";
import { C, EventLoop, libc, must, nativeBuffer, SocketNetwork } from "../../../src/base/io";
import {
  attachToKernel,
  type BlockDevice,
  type DeviceExtent,
  DeviceStatus,
  type Done,
  kernelFlags,
  NbdServer,
  type WriteZeroesOptions,
} from "../../../src/blockdev";

/** A sparse file as a device; a hole is punched where the kernel trims. */
class FileDevice implements BlockDevice {
  readonly name = "file";
  readonly description = "a file";
  readonly readOnly = false;
  readonly preferredBlockBytes = 4096;
  readonly #file: number;

  constructor(
    path: string,
    public sizeBytes: number,
  ) {
    this.#file = must(`open ${path}`, libc.open(path, C.O_RDWR | C.O_CREAT | C.O_CLOEXEC, 0o600));
    this.resize(sizeBytes);
  }

  resize(sizeBytes: number): void {
    must("resize the file", libc.ftruncate(this.#file, sizeBytes));
    this.sizeBytes = sizeBytes;
  }

  read(offsetBytes: number, lengthBytes: number, destination: NativeBuffer, at: number, done: Done): void {
    const result = libc.pread(this.#file, destination.address + at, lengthBytes, offsetBytes);
    done(result === lengthBytes ? DeviceStatus.ok : DeviceStatus.ioError);
  }

  write(
    offsetBytes: number,
    lengthBytes: number,
    source: NativeBuffer,
    at: number,
    _: boolean,
    done: Done,
  ): void {
    const result = libc.pwrite(this.#file, source.address + at, lengthBytes, offsetBytes);
    done(result === lengthBytes ? DeviceStatus.ok : DeviceStatus.ioError);
  }

  flush(done: Done): void {
    done(libc.fdatasync(this.#file) === 0 ? DeviceStatus.ok : DeviceStatus.ioError);
  }

  trim(offsetBytes: number, lengthBytes: number, _: boolean, done: Done): void {
    const mode = C.FALLOC_FL_PUNCH_HOLE | C.FALLOC_FL_KEEP_SIZE;
    done(
      libc.fallocate(this.#file, mode, offsetBytes, lengthBytes) === 0
        ? DeviceStatus.ok
        : DeviceStatus.ioError,
    );
  }

  writeZeroes(offsetBytes: number, lengthBytes: number, options: WriteZeroesOptions, done: Done): void {
    this.trim(offsetBytes, lengthBytes, options.forceUnitAccess, done);
  }

  extents(
    _: number,
    lengthBytes: number,
    __: number,
    done: (status: DeviceStatus, extents: readonly DeviceExtent[]) => void,
  ): void {
    done(DeviceStatus.ok, [{ lengthBytes, hole: false }]);
  }

  onResize(): () => void {
    return () => undefined;
  }
}

const [path, size, identifier, method, device] = process.argv.slice(2);
if (path === undefined || size === undefined || identifier === undefined) {
  console.error("usage: nbd-attach FILE SIZE_BYTES IDENTIFIER auto|netlink|ioctl [DEVICE]");
  process.exit(2);
}
const file = new FileDevice(path, Number(size));
const loop = new EventLoop({ blockMsMax: 5 });
const network = new SocketNetwork(loop);
const directory = {
  list: async () => [file],
  describe: async () => file,
  acquire: async () => ({ device: file, release: async () => undefined }),
};
const server = new NbdServer({ network, directory, clock: loop, allocate: nativeBuffer });
const running = loop.run();
try {
  const attachment = await attachToKernel({
    device,
    sizeBytes: file.sizeBytes,
    serverFlags: kernelFlags(file),
    identifier,
    method: method === "ioctl" || method === "netlink" ? method : "auto",
    serve: async (sockets) => {
      for (const socket of sockets)
        network.adopt(socket, "kernel", (connection) =>
          server.serve(connection, { device: file, release: async () => undefined }),
        );
    },
    startIoctlWorker: () => new Worker(new URL("./nbd-attach.ioctl-worker.ts", import.meta.url).href),
  });
  console.log(`${attachment.tookOver ? "took over" : "attached"} ${attachment.path} ${attachment.method}`);
  process.on("SIGUSR1", async () => {
    file.resize(file.sizeBytes * 1.5);
    await attachment.resize(file.sizeBytes);
    console.log(`resized ${file.sizeBytes}`);
  });
  process.on("SIGTERM", async () => {
    try {
      await attachment.detach();
      await server.close(2000);
      console.log("detached");
      process.exit(0);
    } catch (error) {
      console.log(error instanceof Error ? error.message : String(error));
    }
  });
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error));
  process.exit(1);
}
await running;
