/**
 * Volumes as /dev/nbdN for the CSI node service. Nothing is answered to the kernel before it is durable, so that a
 * driver that is killed and started again takes its devices over with nothing lost. A volume that failed (its lease
 * ended while metadata was away) is opened again and its device taken over, for as long as the kernel waits.
 */
import { TorusError } from "../../base";
import { KernelError, listNbdDevices } from "../../blockdev";
import { CsiError, type DeviceAttacher } from "../../blockdev/csi";
import { attachVolume, exportNameOf, type VolumeAttachment } from "../attach";
import { CommandError } from "../cli";
import type { Client } from "../client";
import { toCsiError } from "./csi-volumes";

/** How long the kernel may take to show a volume's new size. */
const RESIZE_MS_MAX = 30_000;
const LOOK_AGAIN_MS = 100;
/** The kernel's requests wait this long for a successor of a process or volume that died: an update of the driver. */
const DEAD_CONNECTION_TIMEOUT_S = 600;
const RETAKE_AGAIN_MS = 5_000;
const RETAKE_ATTEMPTS_MAX = (DEAD_CONNECTION_TIMEOUT_S * 1000) / RETAKE_AGAIN_MS;

function toAttachError(error: unknown): unknown {
  if (error instanceof KernelError || error instanceof CommandError)
    return new CsiError(
      error instanceof KernelError && error.code === "program-failed" ? "internal" : "failed-precondition",
      error.message,
      { cause: error },
    );
  return error instanceof TorusError ? toCsiError(error) : error;
}

export class KernelAttacher implements DeviceAttacher {
  readonly #attached = new Map<string, VolumeAttachment>();

  constructor(private readonly client: Client) {}

  async attach(volumeName: string): Promise<string> {
    const existing = this.#attached.get(volumeName);
    if (existing !== undefined) return existing.path;
    try {
      return await this.#attach(volumeName);
    } catch (error) {
      throw toAttachError(error);
    }
  }

  async recover(volumeName: string): Promise<string | undefined> {
    const orphan = listNbdDevices().find(
      (device) => device.connected && exportNameOf(device.identifier) === volumeName,
    );
    return orphan === undefined ? undefined : this.attach(volumeName);
  }

  async detach(volumeName: string): Promise<void> {
    const attachment = this.#attached.get(volumeName);
    if (attachment === undefined) return;
    try {
      await attachment.detach();
    } catch (error) {
      throw toAttachError(error);
    }
    this.#attached.delete(volumeName);
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

  async #attach(volumeName: string): Promise<string> {
    const { plane, metadata, logger } = this.client;
    const attachment = await attachVolume(
      { plane, metadata, log: (level, message) => logger.log(level, message) },
      { name: volumeName, method: "netlink", deadConnectionTimeoutS: DEAD_CONNECTION_TIMEOUT_S },
    );
    this.#attached.set(volumeName, attachment);
    logger.log(
      "info",
      `${attachment.tookOver ? "Took over" : "Attached"} ${volumeName} as ${attachment.path}`,
    );
    void attachment.ended.then((failure) => this.#ended(volumeName, attachment, failure));
    return attachment.path;
  }

  async #ended(
    volumeName: string,
    attachment: VolumeAttachment,
    failure: TorusError | undefined,
  ): Promise<void> {
    if (this.#attached.get(volumeName) !== attachment) return;
    this.#attached.delete(volumeName);
    if (failure === undefined) return;
    const { plane, logger } = this.client;
    const say = (error: unknown) =>
      logger.log("error", error instanceof Error ? error.message : String(error));
    say(failure);
    await plane.releaseExport(volumeName).catch(say);
    for (let attempt = 0; attempt < RETAKE_ATTEMPTS_MAX; attempt++) {
      // Detached, or attached by a call, meanwhile.
      if (this.#attached.has(volumeName)) return;
      if (!listNbdDevices().some((device) => device.path === attachment.path && device.connected)) return;
      try {
        await this.#attach(volumeName);
        return;
      } catch (error) {
        say(error);
      }
      await Bun.sleep(RETAKE_AGAIN_MS);
    }
    say(`Cannot take ${attachment.path} over again for volume "${volumeName}": given up`);
  }
}
