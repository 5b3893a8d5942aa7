/**
 * A device whose every answered write is durable. The kernel takes an answer as kept for good until a flush says
 * otherwise, but a file system stays mounted when this process is killed and another one takes its device over: what
 * was answered and not yet sent to a peer would be gone without anybody noticing. So nothing is answered before it
 * is durable, and the kernel is told that there is no write cache.
 *
 * One flush serves all writes that were done when it began; those that come meanwhile share the next one.
 */
import type { NativeBuffer } from "../../base";
import {
  type BlockDevice,
  type DeviceExtent,
  DeviceStatus,
  type Done,
  type WriteZeroesOptions,
} from "../device";

/** Request objects kept for the next ones. */
const POOL_MAX = 1024;

interface Pending {
  readonly wrote: Done;
  done: Done | undefined;
}

export class DurableDevice implements BlockDevice {
  /** Done and waiting for the next flush. */
  #waiting: Pending[] = [];
  #flushed: Pending[] = [];
  #flushing = false;
  readonly #pool: Pending[] = [];

  constructor(
    private readonly device: BlockDevice,
    /** The device answered that it can never work again; runs before whoever asked is told. */
    private readonly onShutdown: () => void,
  ) {}

  get name(): string {
    return this.device.name;
  }
  get description(): string {
    return this.device.description;
  }
  get sizeBytes(): number {
    return this.device.sizeBytes;
  }
  get readOnly(): boolean {
    return this.device.readOnly;
  }
  get preferredBlockBytes(): number {
    return this.device.preferredBlockBytes;
  }

  read(offsetBytes: number, lengthBytes: number, destination: NativeBuffer, at: number, done: Done): void {
    this.device.read(offsetBytes, lengthBytes, destination, at, (status) => {
      if (status === DeviceStatus.shutdown) this.onShutdown();
      done(status);
    });
  }

  write(
    offsetBytes: number,
    lengthBytes: number,
    source: NativeBuffer,
    at: number,
    _forceUnitAccess: boolean,
    done: Done,
  ): void {
    this.device.write(offsetBytes, lengthBytes, source, at, false, this.#pending(done).wrote);
  }

  trim(offsetBytes: number, lengthBytes: number, _forceUnitAccess: boolean, done: Done): void {
    this.device.trim(offsetBytes, lengthBytes, false, this.#pending(done).wrote);
  }

  writeZeroes(offsetBytes: number, lengthBytes: number, options: WriteZeroesOptions, done: Done): void {
    const plain = options.forceUnitAccess ? { ...options, forceUnitAccess: false } : options;
    this.device.writeZeroes(offsetBytes, lengthBytes, plain, this.#pending(done).wrote);
  }

  flush(done: Done): void {
    const pending = this.#pending(done);
    pending.wrote(DeviceStatus.ok);
  }

  extents(
    offsetBytes: number,
    lengthBytes: number,
    extentCountMax: number,
    done: (status: DeviceStatus, extents: readonly DeviceExtent[]) => void,
  ): void {
    this.device.extents(offsetBytes, lengthBytes, extentCountMax, done);
  }

  onResize(listener: (sizeBytes: number) => void): () => void {
    return this.device.onResize(listener);
  }

  #pending(done: Done): Pending {
    const pending = this.#pool.pop() ?? this.#make();
    pending.done = done;
    return pending;
  }

  #make(): Pending {
    const pending: Pending = {
      done: undefined,
      wrote: (status) => {
        if (status !== DeviceStatus.ok) return this.#finish(pending, status);
        this.#waiting.push(pending);
        if (!this.#flushing) this.#flush();
      },
    };
    return pending;
  }

  #flush(): void {
    const served = this.#waiting;
    this.#waiting = this.#flushed;
    this.#flushed = served;
    this.#flushing = true;
    this.device.flush((status) => {
      for (const pending of served) this.#finish(pending, status);
      served.length = 0;
      this.#flushing = false;
      if (this.#waiting.length > 0) this.#flush();
    });
  }

  #finish(pending: Pending, status: DeviceStatus): void {
    const done = pending.done as Done;
    pending.done = undefined;
    if (this.#pool.length < POOL_MAX) this.#pool.push(pending);
    if (status === DeviceStatus.shutdown) this.onShutdown();
    done(status);
  }
}
