/**
 * A program that serves one volume in memory over NBD on the raw event loop: `bun nbd-memory-server.ts SIZE_BYTES
 * ADDRESS...`. It prints one line per address once it listens. The front end and the network are the real ones, so
 * real clients can be pointed at it and its speed is the front end's own. SIGTERM ends it in order.
 */
import { type NativeBuffer, parseSize } from "../../src/base";
import { EventLoop, libc, nativeBuffer, SocketNetwork } from "../../src/base/io";
import {
  type BlockDevice,
  type DeviceDirectory,
  type DeviceExtent,
  DeviceStatus,
  type Done,
  NbdServer,
  type WriteZeroesOptions,
} from "../../src/blockdev";

const PAGE_BYTES = 4096;

/** Memory of the machine, mapped when first written; knows which pages were. */
class NativeMemoryDevice implements BlockDevice {
  readonly name = "memory";
  readonly description = "a volume in memory";
  readonly readOnly = false;
  readonly preferredBlockBytes = PAGE_BYTES;
  readonly #memory: NativeBuffer;
  readonly #written: Uint8Array;

  constructor(readonly sizeBytes: number) {
    this.#memory = nativeBuffer(sizeBytes);
    this.#written = new Uint8Array(Math.ceil(sizeBytes / PAGE_BYTES));
  }

  read(offsetBytes: number, lengthBytes: number, destination: NativeBuffer, at: number, done: Done): void {
    libc.memcpy(destination.address + at, this.#memory.address + offsetBytes, lengthBytes);
    done(DeviceStatus.ok);
  }

  write(
    offsetBytes: number,
    lengthBytes: number,
    source: NativeBuffer,
    at: number,
    _: boolean,
    done: Done,
  ): void {
    libc.memcpy(this.#memory.address + offsetBytes, source.address + at, lengthBytes);
    const endPage = Math.ceil((offsetBytes + lengthBytes) / PAGE_BYTES);
    for (let page = Math.floor(offsetBytes / PAGE_BYTES); page < endPage; page++) this.#written[page] = 1;
    done(DeviceStatus.ok);
  }

  flush(done: Done): void {
    done(DeviceStatus.ok);
  }

  trim(offsetBytes: number, lengthBytes: number, _: boolean, done: Done): void {
    this.#memory.bytes.fill(0, offsetBytes, offsetBytes + lengthBytes);
    const firstPage = Math.ceil(offsetBytes / PAGE_BYTES);
    const endPage = Math.floor((offsetBytes + lengthBytes) / PAGE_BYTES);
    if (endPage > firstPage) this.#written.fill(0, firstPage, endPage);
    done(DeviceStatus.ok);
  }

  writeZeroes(offsetBytes: number, lengthBytes: number, options: WriteZeroesOptions, done: Done): void {
    this.trim(offsetBytes, lengthBytes, options.forceUnitAccess, done);
  }

  extents(
    offsetBytes: number,
    lengthBytes: number,
    extentCountMax: number,
    done: (status: DeviceStatus, extents: readonly DeviceExtent[]) => void,
  ): void {
    const extents: { lengthBytes: number; hole: boolean }[] = [];
    for (let at = offsetBytes; at < offsetBytes + lengthBytes; ) {
      const page = Math.floor(at / PAGE_BYTES);
      const end = Math.min((page + 1) * PAGE_BYTES, offsetBytes + lengthBytes);
      const hole = this.#written[page] === 0;
      const last = extents.at(-1);
      if (last?.hole === hole) last.lengthBytes += end - at;
      else if (extents.length === extentCountMax) break;
      else extents.push({ lengthBytes: end - at, hole });
      at = end;
    }
    done(DeviceStatus.ok, extents);
  }

  onResize(): () => void {
    return () => undefined;
  }
}

const [sizeText, ...addresses] = process.argv.slice(2);
if (sizeText === undefined || addresses.length === 0) {
  console.error("usage: nbd-memory-server SIZE ADDRESS...");
  process.exit(2);
}
const device = new NativeMemoryDevice(parseSize(sizeText));
const directory: DeviceDirectory = {
  list: async () => [device],
  describe: async (name) => (name === "" || name === device.name ? device : undefined),
  acquire: async (name) =>
    name === "" || name === device.name ? { device, release: async () => undefined } : undefined,
};
// A signal reaches JavaScript only between waits: keep them short.
const loop = new EventLoop({ blockMsMax: 50 });
const network = new SocketNetwork(loop);
const server = new NbdServer({
  network,
  directory,
  clock: loop,
  allocate: nativeBuffer,
  onEvent: (event) => {
    if (event.kind === "internal") console.error(event.message, event.error);
  },
});
process.on("SIGTERM", () => {
  server
    .close(2000)
    .then(() => loop.stop())
    .catch((error: unknown) => {
      console.error(error);
      process.exit(1);
    });
});
for (const address of addresses) console.log(server.listen(address));
await loop.run();
process.exit(0);
