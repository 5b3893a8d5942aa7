/**
 * Volumes as /dev/nbdN for the CSI node service. Nothing is answered to the kernel before it is durable, so that a
 * driver that is killed and started again takes its devices over with nothing lost.
 */
import {
  attachToKernel,
  type KernelAttachment,
  KernelError,
  kernelFlags,
  listNbdDevices,
} from "../../blockdev";
import { CsiError, type DeviceAttacher } from "../../blockdev/csi";
import { TorusError } from "../../base";
import type { Client } from "../client";
import { toCsiError } from "./csi-volumes";

/** How long the kernel may take to show a volume's new size. */
const RESIZE_MS_MAX = 30_000;
const LOOK_AGAIN_MS = 100;

export class KernelAttacher implements DeviceAttacher {
  readonly #attached = new Map<string, KernelAttachment>();

  constructor(
    private readonly client: Client,
    private readonly clusterId: string,
  ) {}

  async attach(volumeName: string): Promise<string> {
    const existing = this.#attached.get(volumeName);
    if (existing !== undefined) return existing.path;
    const { plane, logger } = this.client;
    const held = await this.#hold(volumeName);
    try {
      const attachment = await attachToKernel({
        device: undefined,
        sizeBytes: held.sizeBytes,
        serverFlags: kernelFlags(held, false),
        identifier: this.#identifier(volumeName),
        serve: (sockets) => plane.adoptExport({ name: volumeName, sockets, writeThrough: true }),
      });
      this.#attached.set(volumeName, attachment);
      logger.log("info", `Attached "${volumeName}" as ${attachment.path}`);
      return attachment.path;
    } catch (error) {
      await plane.releaseExport(volumeName);
      if (error instanceof KernelError)
        throw new CsiError(
          error.code === "not-supported" ? "failed-precondition" : "internal",
          error.message,
          {
            cause: error,
          },
        );
      throw error;
    }
  }

  async recover(volumeName: string): Promise<string | undefined> {
    const identifier = this.#identifier(volumeName);
    const orphan = listNbdDevices().find((device) => device.connected && device.identifier === identifier);
    return orphan === undefined ? undefined : this.attach(volumeName);
  }

  async detach(volumeName: string): Promise<void> {
    const attachment = this.#attached.get(volumeName);
    if (attachment === undefined) return;
    await attachment.detach();
    this.#attached.delete(volumeName);
    await this.client.plane.releaseExport(volumeName);
  }

  async refreshSize(volumeName: string): Promise<void> {
    const attachment = this.#attached.get(volumeName);
    if (attachment === undefined)
      throw new CsiError(
        "failed-precondition",
        `Cannot grow volume "${volumeName}": it is not attached here`,
      );
    const { sizeBytes } = await this.client.metadata.volumes.info(volumeName);
    const deadlineMs = performance.now() + RESIZE_MS_MAX;
    while (listNbdDevices().find((one) => one.path === attachment.path)?.sizeBytes !== sizeBytes) {
      if (performance.now() > deadlineMs)
        throw new CsiError("unavailable", `Cannot grow ${attachment.path}: the kernel keeps its old size`);
      await Bun.sleep(LOOK_AGAIN_MS);
    }
  }

  #identifier(volumeName: string): string {
    return `torus:${this.clusterId}/${volumeName}`;
  }

  async #hold(volumeName: string) {
    const { plane, logger } = this.client;
    try {
      return await plane.holdExport(volumeName, {
        onResized: (sizeBytes) => {
          this.#attached
            .get(volumeName)
            ?.resize(sizeBytes)
            .catch((error: unknown) => logger.log("error", String(error)));
        },
        onFailed: (reason) => logger.log("error", reason),
        onIdle: () => logger.log("warn", `The kernel let go of "${volumeName}"`),
      });
    } catch (error) {
      throw error instanceof TorusError ? toCsiError(error) : error;
    }
  }
}
