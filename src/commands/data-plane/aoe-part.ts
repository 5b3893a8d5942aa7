/** An AoE target inside the data worker: one volume or snapshot on one interface. */
import { createHash } from "node:crypto";
import { TorusError } from "../../base";
import type { EventLoop } from "../../base/io";
import { AoeSocket, AoeTarget, type MacAddress } from "../../blockdev";
import { type DeviceOpener, type OpenDevice, parseExportName } from "./volume-directory";
import type { AoeConfig, AoeOpened } from "./worker-api";

/** How long requests under way may take when the target stops. */
const DRAIN_MS_MAX = 10_000;

export interface AoePartOptions {
  readonly loop: EventLoop;
  readonly client: DeviceOpener;
  readonly config: AoeConfig;
  /** The target can't go on. */
  readonly onFailed: (error: TorusError) => void;
}

export class AoePart {
  readonly #loop: EventLoop;
  readonly #open: OpenDevice;
  readonly #socket: AoeSocket;
  readonly #target: AoeTarget;

  private constructor(options: AoePartOptions, open: OpenDevice) {
    const { loop, config, onFailed } = options;
    this.#loop = loop;
    this.#open = open;
    let failed = false;
    const fail = (reason: string) => {
      if (failed) return;
      failed = true;
      onFailed(new TorusError("front-end-failed", reason));
    };
    this.#socket = AoeSocket.open(loop, config.interfaceName, {
      onFrame: (frame, lengthBytes) => this.#target.receive(frame, lengthBytes),
      onGone: fail,
    });
    this.#target = new AoeTarget({
      device: open.device,
      link: this.#socket,
      clock: loop,
      major: config.major,
      minor: config.minor,
      writeCache: config.writeCache,
      allowed: config.allowed as readonly MacAddress[],
      serial: serialOf(config.volume),
      firmware: config.firmware,
      onDeviceGone: () =>
        fail(open.failure() ?? `Cannot go on with volume "${config.volume}": it was closed`),
    });
    this.#target.advertise();
  }

  static async open(options: AoePartOptions): Promise<AoePart> {
    const { volume, snapshot } = parseExportName(options.config.volume);
    const open =
      snapshot === undefined
        ? await options.client.openVolume(volume)
        : await options.client.openSnapshot(volume, snapshot);
    try {
      return new AoePart(options, open);
    } catch (error) {
      await open.close();
      throw error;
    }
  }

  get opened(): AoeOpened {
    const { name, mtuBytes, isUp } = this.#socket.description;
    return {
      interfaceName: name,
      mtuBytes,
      isUp,
      sectorCountMax: this.#target.sectorCountMax,
      sizeBytes: this.#open.device.sizeBytes,
    };
  }

  async close(): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = this.#loop.schedule(DRAIN_MS_MAX, resolve);
      void this.#target.close().then(() => {
        timer.cancel();
        resolve();
      });
    });
    this.#socket.close();
    await this.#open.close();
  }
}

/** 20 characters that are the same wherever and whenever the volume is served. */
function serialOf(volume: string): string {
  return createHash("sha256").update(volume).digest("hex").slice(0, 20);
}
