/**
 * What a front end (NBD, AoE, CSI) needs of a volume. blockdev owns this contract; the engine's open volume
 * satisfies it. Calls are callbacks, not promises: at tens of thousands of requests a second a promise each is
 * the biggest cost. A callback may run before the call returns.
 */
import type { NativeBuffer } from "../base";

export const DeviceStatus = {
  ok: 0,
  /** The data cannot be had or kept: no replica answers, or the volume failed. */
  ioError: 1,
  noSpace: 2,
  /** Beyond the end, or a length or alignment the device refuses. */
  invalid: 3,
  readOnly: 4,
  /** The device is closing or was fenced by a newer writer. */
  shutdown: 5,
  /** Only for writeZeroes with `fastOnly`: it would not be fast. */
  notSupported: 6,
} as const;
export type DeviceStatus = (typeof DeviceStatus)[keyof typeof DeviceStatus];
export type Done = (status: DeviceStatus) => void;

export interface WriteZeroesOptions {
  readonly forceUnitAccess: boolean;
  /** The range may become a hole. torus always makes one. */
  readonly mayTrim: boolean;
  readonly fastOnly: boolean;
}

export interface DeviceExtent {
  readonly lengthBytes: number;
  /** A hole: never written or trimmed; reads as zeroes and takes no space. */
  readonly hole: boolean;
}

/** What can be told of a device without opening it. */
export interface DeviceDescription {
  readonly name: string;
  readonly description: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** The unit in which writes are cheapest: the 4 KiB page. Any byte offset and length is served. */
  readonly preferredBlockBytes: number;
}

export interface BlockDevice extends DeviceDescription {
  /**
   * Fills destination.bytes[destinationOffset .. +lengthBytes) and then calls done. The destination belongs to
   * the device until then, and may hold anything on an error.
   */
  read(
    offsetBytes: number,
    lengthBytes: number,
    destination: NativeBuffer,
    destinationOffset: number,
    done: Done,
  ): void;
  /**
   * The source belongs to the device until done. done(ok) means: read-your-writes holds on every connection;
   * with forceUnitAccess also durable.
   */
  write(
    offsetBytes: number,
    lengthBytes: number,
    source: NativeBuffer,
    sourceOffset: number,
    forceUnitAccess: boolean,
    done: Done,
  ): void;
  /** done(ok): all writes whose done ran before this call are durable at the volume's write level. */
  flush(done: Done): void;
  trim(offsetBytes: number, lengthBytes: number, forceUnitAccess: boolean, done: Done): void;
  writeZeroes(offsetBytes: number, lengthBytes: number, options: WriteZeroesOptions, done: Done): void;
  /** Extents covering the range from its start, at most `extentCountMax`, merged; may load map nodes, hence a callback. */
  extents(
    offsetBytes: number,
    lengthBytes: number,
    extentCountMax: number,
    done: (status: DeviceStatus, extents: readonly DeviceExtent[]) => void,
  ): void;
  /** Calls back when sizeBytes changed; returns how to stop. */
  onResize(listener: (sizeBytes: number) => void): () => void;
}

/** A listing for NBD's LIST, and how a front end gets at a device by export name ("": the default one, if any). */
export interface DeviceDirectory {
  list(): Promise<readonly DeviceDescription[]>;
  /** For NBD's INFO, which must not take a volume from whoever has it attached. Undefined: no such export. */
  describe(exportName: string): Promise<DeviceDescription | undefined>;
  /** Opens or shares the device; `release` must be called once. Undefined: no such export. Throws TorusError otherwise. */
  acquire(
    exportName: string,
  ): Promise<{ readonly device: BlockDevice; release(): Promise<void> } | undefined>;
}
