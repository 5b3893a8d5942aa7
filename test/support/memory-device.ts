/**
 * A BlockDevice and DeviceDirectory in plain memory, for tests of front ends. Answers come at once, or (with
 * `deferred`) when the test calls `answer`, in any order it likes; any operation can be made to fail. It checks what
 * a device may assume: ranges inside the device, and buffers that hold them.
 */
import { assert, type NativeBuffer } from "../../src/base";
import type {
  BlockDevice,
  DeviceDescription,
  DeviceDirectory,
  DeviceExtent,
  Done,
  WriteZeroesOptions,
} from "../../src/blockdev";
import { DeviceStatus } from "../../src/blockdev";

const PAGE_BYTES = 4096;

export interface DeviceCall {
  readonly operation: "read" | "write" | "flush" | "trim" | "writeZeroes" | "extents";
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly forceUnitAccess: boolean;
}

export class MemoryDevice implements BlockDevice {
  readonly description = "test volume";
  readonly preferredBlockBytes = PAGE_BYTES;
  readOnly = false;
  /** Answers wait for `answer` instead of coming inside the call. */
  deferred = false;
  /** What the next operations of a kind answer instead of ok. */
  readonly failures = new Map<DeviceCall["operation"], DeviceStatus>();
  readonly calls: DeviceCall[] = [];
  readonly waiting: (() => void)[] = [];
  readonly content: Uint8Array;
  readonly #written: Uint8Array;
  readonly #resizeListeners = new Set<(sizeBytes: number) => void>();

  constructor(
    readonly name: string,
    public sizeBytes: number,
  ) {
    this.content = new Uint8Array(sizeBytes);
    this.#written = new Uint8Array(Math.ceil(sizeBytes / PAGE_BYTES));
  }

  /** Lets the answers that wait come, `pick` choosing which is next. */
  answer(pick: (count: number) => number = () => 0): void {
    while (this.waiting.length > 0) this.waiting.splice(pick(this.waiting.length), 1)[0]?.();
  }

  resize(sizeBytes: number): void {
    this.sizeBytes = sizeBytes;
    for (const listener of this.#resizeListeners) listener(sizeBytes);
  }

  read(offsetBytes: number, lengthBytes: number, destination: NativeBuffer, at: number, done: Done): void {
    this.#call("read", offsetBytes, lengthBytes, false, done, () => {
      assert(at + lengthBytes <= destination.bytes.length, "read beyond the destination");
      destination.bytes.set(this.content.subarray(offsetBytes, offsetBytes + lengthBytes), at);
    });
  }

  write(
    offsetBytes: number,
    lengthBytes: number,
    source: NativeBuffer,
    at: number,
    fua: boolean,
    done: Done,
  ): void {
    this.#call("write", offsetBytes, lengthBytes, fua, done, () => {
      this.content.set(source.bytes.subarray(at, at + lengthBytes), offsetBytes);
      this.#mark(offsetBytes, lengthBytes, 1);
    });
  }

  flush(done: Done): void {
    this.#call("flush", 0, 0, false, done, () => undefined);
  }

  trim(offsetBytes: number, lengthBytes: number, fua: boolean, done: Done): void {
    this.#call("trim", offsetBytes, lengthBytes, fua, done, () => this.#zero(offsetBytes, lengthBytes));
  }

  writeZeroes(offsetBytes: number, lengthBytes: number, options: WriteZeroesOptions, done: Done): void {
    this.#call("writeZeroes", offsetBytes, lengthBytes, options.forceUnitAccess, done, () =>
      this.#zero(offsetBytes, lengthBytes),
    );
  }

  extents(
    offsetBytes: number,
    lengthBytes: number,
    extentCountMax: number,
    done: (status: DeviceStatus, extents: readonly DeviceExtent[]) => void,
  ): void {
    const extents: { lengthBytes: number; hole: boolean }[] = [];
    const answer = (status: DeviceStatus) => done(status, status === DeviceStatus.ok ? extents : []);
    this.#call("extents", offsetBytes, lengthBytes, false, answer, () => {
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
    });
  }

  onResize(listener: (sizeBytes: number) => void): () => void {
    this.#resizeListeners.add(listener);
    return () => this.#resizeListeners.delete(listener);
  }

  #call(
    operation: DeviceCall["operation"],
    offsetBytes: number,
    lengthBytes: number,
    forceUnitAccess: boolean,
    done: Done,
    effect: () => void,
  ): void {
    assert(offsetBytes + lengthBytes <= this.sizeBytes, `${operation} beyond the end of the device`);
    this.calls.push({ operation, offsetBytes, lengthBytes, forceUnitAccess });
    const failure = this.failures.get(operation);
    const run = () => {
      if (failure === undefined) effect();
      done(failure ?? DeviceStatus.ok);
    };
    if (this.deferred) this.waiting.push(run);
    else run();
  }

  #zero(offsetBytes: number, lengthBytes: number): void {
    this.content.fill(0, offsetBytes, offsetBytes + lengthBytes);
    const firstPage = Math.ceil(offsetBytes / PAGE_BYTES);
    const endPage = Math.floor((offsetBytes + lengthBytes) / PAGE_BYTES);
    if (endPage > firstPage) this.#written.fill(0, firstPage, endPage);
  }

  #mark(offsetBytes: number, lengthBytes: number, value: number): void {
    const endPage = Math.ceil((offsetBytes + lengthBytes) / PAGE_BYTES);
    this.#written.fill(value, Math.floor(offsetBytes / PAGE_BYTES), endPage);
  }
}

/** Shares its devices and counts who holds them. */
export class MemoryDirectory implements DeviceDirectory {
  readonly holders = new Map<string, number>();
  /** What acquire and describe throw instead of answering. */
  failure: Error | undefined;
  /** Acquire waits for this. */
  gate: Promise<void> = Promise.resolve();

  constructor(readonly devices: readonly MemoryDevice[]) {}

  async list(): Promise<readonly DeviceDescription[]> {
    if (this.failure !== undefined) throw this.failure;
    return this.devices;
  }

  async describe(exportName: string): Promise<DeviceDescription | undefined> {
    if (this.failure !== undefined) throw this.failure;
    return this.#find(exportName);
  }

  async acquire(exportName: string) {
    await this.gate;
    if (this.failure !== undefined) throw this.failure;
    const device = this.#find(exportName);
    if (device === undefined) return undefined;
    this.#hold(device.name, 1);
    let held = true;
    const release = async () => {
      assert(held, "a device was released twice");
      held = false;
      this.#hold(device.name, -1);
    };
    return { device, release };
  }

  #hold(name: string, change: number): void {
    this.holders.set(name, (this.holders.get(name) ?? 0) + change);
  }

  #find(exportName: string): MemoryDevice | undefined {
    return exportName === "" ? this.devices[0] : this.devices.find((device) => device.name === exportName);
  }
}
