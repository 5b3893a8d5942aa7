/**
 * Volumes for the kernel inside the data worker: an export is held open, the kernel's sockets are served by the NBD
 * server, and the main thread hears when the export's size changes, when it failed, and when the kernel let go of it.
 *
 * A failed export (another writer took the volume) answers nothing more: its sockets are cut before the first error
 * could leave, so that a mounted file system waits for whoever takes the device over instead of being told of errors.
 */
import { TorusError } from "../../base";
import type { SocketNetwork, StreamConnection } from "../../base/io";
import { type BlockDevice, DurableDevice, type NbdServer } from "../../blockdev";
import type { OpenDevice, VolumeDirectory } from "./volume-directory";
import type { ExportSockets, HeldExport, KernelEvents, KernelMethods } from "./worker-api";

export interface KernelPartOptions {
  readonly network: SocketNetwork;
  readonly server: NbdServer;
  readonly directory: VolumeDirectory;
  readonly emit: <Name extends keyof KernelEvents>(name: Name, payload: KernelEvents[Name]) => void;
}

interface Held {
  readonly open: OpenDevice;
  readonly release: () => Promise<void>;
  readonly stopWatching: () => void;
  readonly connections: Set<StreamConnection>;
  durable: BlockDevice | undefined;
  failed: boolean;
}

export class KernelPart implements KernelMethods {
  readonly #held = new Map<string, Held>();

  constructor(private readonly options: KernelPartOptions) {}

  async holdExport(name: string): Promise<HeldExport> {
    if (this.#held.has(name))
      throw new TorusError("busy", `Cannot attach "${name}": this process has it attached`);
    const taken = await this.options.directory.take(name);
    if (taken === undefined)
      throw new TorusError("no-such-volume", `Cannot attach "${name}": there is no such volume or snapshot`);
    const { open, release } = taken;
    const { device } = open;
    const unwatch = device.onResize((sizeBytes) => this.options.emit("exportResized", { name, sizeBytes }));
    const held: Held = {
      open,
      release,
      stopWatching: unwatch,
      connections: new Set(),
      durable: undefined,
      failed: false,
    };
    this.#held.set(name, held);
    open.onFailure?.(() => this.#fail(name, held));
    return {
      sizeBytes: device.sizeBytes,
      readOnly: device.readOnly,
      writer: open.writer,
    };
  }

  async adoptExport({ name, sockets, writeThrough }: ExportSockets): Promise<void> {
    const held = this.#required(name);
    if (held.failed)
      throw new TorusError("volume-failed", `Cannot serve "${name}": ${held.open.failure() ?? "it failed"}`);
    held.durable ??= new DurableDevice(held.open.device, () => this.#fail(name, held));
    const device = writeThrough ? held.durable : held.open.device;
    for (const socket of sockets)
      this.options.network.adopt(socket, "kernel", (connection) => {
        held.connections.add(connection);
        const release = async () => {
          held.connections.delete(connection);
          if (held.connections.size === 0) this.options.emit("exportIdle", { name });
        };
        return this.options.server.serve(connection, { device, release });
      });
  }

  /** Ends the sockets that are left, and gives the volume back; throws when it could not be detached cleanly. */
  async releaseExport(name: string): Promise<void> {
    const held = this.#required(name);
    this.#held.delete(name);
    held.stopWatching();
    for (const connection of [...held.connections]) connection.destroy("released");
    await held.release();
  }

  #fail(name: string, held: Held): void {
    if (held.failed) return;
    held.failed = true;
    const reason = held.open.failure() ?? `Cannot go on with "${name}": it was closed`;
    for (const connection of [...held.connections]) connection.destroy(reason);
    this.options.emit("exportFailed", { name, reason });
  }

  #required(name: string): Held {
    const held = this.#held.get(name);
    if (held === undefined) throw new TorusError("not-open", `Cannot serve "${name}": it is not held`);
    return held;
  }
}
