/**
 * Volumes and snapshots opened for a command of this very process (dump, load, restore, resize), not for a front end:
 * the main thread reads and writes them in pieces. A piece crosses the threads as one copy; commands keep several on
 * the way.
 */
import { type Clock, TorusError } from "../../base";
import { nativeBuffer, BufferPool } from "../../base/io";
import { type DeviceExtent, DeviceStatus, type Done } from "../../blockdev";
import { PAGE_BYTES } from "../../engine/block";
import { SnapshotVolume, Volume } from "../../engine/volume";
import { measureDevice } from "./bench";
import type { ClientPart } from "./client-part";
import type { OpenDevice } from "./volume-directory";
import type {
  BenchFigures,
  BenchLoad,
  DeviceDifference,
  DeviceMethods,
  OpenDeviceRequest,
} from "./worker-api";

/** The largest piece one call reads or writes. */
export const PIECE_BYTES_MAX = 1024 * 1024;
/** Pieces under way at once; more wait. */
const PIECES_MAX = 16;
const DEVICES_MAX = 64;
const DIFFS_MAX = 64;
const DIFFERENCES_MAX = 4096;

const STATUS_TEXT: Readonly<Record<DeviceStatus, string>> = {
  [DeviceStatus.ok]: "done",
  [DeviceStatus.ioError]: "no peer could serve or keep the data",
  [DeviceStatus.noSpace]: "the peers are full: add peers, or delete volumes or snapshots",
  [DeviceStatus.invalid]: "it lies beyond the volume's end",
  [DeviceStatus.readOnly]: "it is read-only",
  [DeviceStatus.shutdown]: "the volume was taken over or is closing",
  [DeviceStatus.notSupported]: "it is not supported",
};

export class DevicePart implements DeviceMethods {
  readonly #client: ClientPart;
  readonly #devices = new Map<number, OpenDevice>();
  readonly #pool = new BufferPool(PIECE_BYTES_MAX, PIECES_MAX, nativeBuffer);
  readonly #diffs = new Map<number, Diff>();
  readonly #clock: Clock;
  #next = 1;

  constructor(client: ClientPart, clock: Clock) {
    this.#client = client;
    this.#clock = clock;
  }

  async openDevice(
    request: OpenDeviceRequest,
  ): Promise<{ readonly handle: number; readonly sizeBytes: number }> {
    if (this.#devices.size >= DEVICES_MAX)
      throw new TorusError(
        "too-many-devices",
        `Cannot open more than ${DEVICES_MAX} volumes for one command`,
      );
    const open =
      request.snapshot === undefined
        ? await this.#client.openVolume(request.volume, {
            ...(request.restoreSnapshot === undefined ? {} : { restoreSnapshot: request.restoreSnapshot }),
          })
        : await this.#client.openSnapshot(request.volume, request.snapshot);
    const handle = this.#next++;
    this.#devices.set(handle, open);
    return { handle, sizeBytes: open.device.sizeBytes };
  }

  async readDevice(argument: {
    handle: number;
    offsetBytes: number;
    lengthBytes: number;
  }): Promise<Uint8Array> {
    const { handle, offsetBytes, lengthBytes } = argument;
    const { device } = this.#open(handle);
    return this.#withBuffer(lengthBytes, async (buffer) => {
      await settled(`read ${device.name} at ${offsetBytes}`, (done) =>
        device.read(offsetBytes, lengthBytes, buffer, 0, done),
      );
      return buffer.bytes.slice(0, lengthBytes);
    });
  }

  async writeDevice(argument: { handle: number; offsetBytes: number; bytes: Uint8Array }): Promise<void> {
    const { handle, offsetBytes, bytes } = argument;
    const { device } = this.#open(handle);
    await this.#withBuffer(bytes.length, async (buffer) => {
      buffer.bytes.set(bytes);
      await settled(`write ${device.name} at ${offsetBytes}`, (done) =>
        device.write(offsetBytes, bytes.length, buffer, 0, false, done),
      );
    });
  }

  async trimDevice(argument: { handle: number; offsetBytes: number; lengthBytes: number }): Promise<void> {
    const { handle, offsetBytes, lengthBytes } = argument;
    const { device } = this.#open(handle);
    await settled(`trim ${device.name} at ${offsetBytes}`, (done) =>
      device.trim(offsetBytes, lengthBytes, false, done),
    );
  }

  async flushDevice(handle: number): Promise<void> {
    const { device } = this.#open(handle);
    await settled(`flush ${device.name}`, (done) => device.flush(done));
  }

  deviceExtents(argument: {
    handle: number;
    offsetBytes: number;
    lengthBytes: number;
    countMax: number;
  }): Promise<readonly DeviceExtent[]> {
    const { handle, offsetBytes, lengthBytes, countMax } = argument;
    const { device } = this.#open(handle);
    return new Promise((resolve, reject) => {
      device.extents(offsetBytes, lengthBytes, countMax, (status, extents) => {
        if (status === DeviceStatus.ok) resolve(extents.map((one) => ({ ...one })));
        else reject(failure(`look at ${device.name}`, status));
      });
    });
  }

  async startDiff(argument: {
    handle: number;
    base: number | undefined;
  }): Promise<{ readonly diff: number }> {
    const { handle, base } = argument;
    if (this.#diffs.size >= DIFFS_MAX)
      throw new TorusError("too-many-devices", `Cannot compare more than ${DIFFS_MAX} snapshots at once`);
    const { device } = this.#open(handle);
    const before = base === undefined ? undefined : this.#open(base).device;
    if (!(device instanceof SnapshotVolume) || (before !== undefined && !(before instanceof SnapshotVolume)))
      throw new TorusError("bad-request", `Cannot compare "${device.name}": only snapshots are compared`);
    const diff = this.#next++;
    this.#diffs.set(diff, { pages: device.differences(before), sizeBytes: device.sizeBytes });
    return { diff };
  }

  async nextDiff(argument: { diff: number; countMax: number }): Promise<readonly DeviceDifference[]> {
    const { diff } = argument;
    const open = this.#diffs.get(diff);
    if (open === undefined)
      throw new TorusError("not-open", `Cannot go on with comparison ${diff}: it is not open`);
    const found: DeviceDifference[] = [];
    while (found.length < Math.min(argument.countMax, DIFFERENCES_MAX)) {
      const next = await open.pages.next();
      if (next.done === true) break;
      const offsetBytes = next.value.firstPage * PAGE_BYTES;
      const lengthBytes = Math.min(next.value.pageCount * PAGE_BYTES, open.sizeBytes - offsetBytes);
      found.push({ offsetBytes, lengthBytes, hole: next.value.isHole });
    }
    if (found.length === 0) this.#diffs.delete(diff);
    return found;
  }

  async endDiff(diff: number): Promise<void> {
    this.#diffs.delete(diff);
  }

  benchDevice({ handle, load }: { handle: number; load: BenchLoad }): Promise<BenchFigures> {
    const { device } = this.#open(handle);
    if (!(load.requestBytes > 0 && load.requestBytes <= PIECE_BYTES_MAX && load.depth <= PIECES_MAX))
      throw new TorusError(
        "bad-request",
        `Cannot measure ${load.depth} requests of ${load.requestBytes} bytes at once`,
      );
    return measureDevice(device, load, this.#clock, (status) => failure(`measure ${device.name}`, status));
  }

  async resizeDevice(argument: { handle: number; sizeBytes: number; shrink: boolean }): Promise<void> {
    const { device } = this.#open(argument.handle);
    if (!(device instanceof Volume))
      throw new TorusError("read-only", `Cannot resize "${device.name}": it is a snapshot`);
    await device.resize(argument.sizeBytes, { shrink: argument.shrink });
  }

  async closeDevice(handle: number): Promise<void> {
    const open = this.#open(handle);
    this.#devices.delete(handle);
    await open.close();
  }

  async close(): Promise<void> {
    for (const handle of [...this.#devices.keys()]) await this.closeDevice(handle);
  }

  #open(handle: number): OpenDevice {
    const open = this.#devices.get(handle);
    if (open === undefined) throw new TorusError("not-open", `Cannot use device ${handle}: it is not open`);
    return open;
  }

  async #withBuffer<T>(
    lengthBytes: number,
    work: (buffer: ReturnType<typeof nativeBuffer>) => Promise<T>,
  ): Promise<T> {
    if (!(lengthBytes >= 0 && lengthBytes <= PIECE_BYTES_MAX))
      throw new TorusError("bad-request", `Cannot move ${lengthBytes} bytes in one piece`);
    let buffer = this.#pool.acquire();
    while (buffer === undefined) {
      await new Promise<void>((resolve) => this.#pool.whenAvailable(resolve));
      buffer = this.#pool.acquire();
    }
    try {
      return await work(buffer);
    } finally {
      this.#pool.release(buffer);
    }
  }
}

interface Diff {
  readonly pages: ReturnType<SnapshotVolume["differences"]>;
  readonly sizeBytes: number;
}

function failure(action: string, status: DeviceStatus): TorusError {
  return new TorusError("device-failed", `Cannot ${action}: ${STATUS_TEXT[status]}`);
}

function settled(action: string, start: (done: Done) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    start((status) => {
      if (status === DeviceStatus.ok) resolve();
      else reject(failure(action, status));
    });
  });
}
