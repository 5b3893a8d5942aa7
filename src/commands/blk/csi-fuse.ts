/**
 * Volumes as loop devices over nbdfuse, for machines whose kernel has no nbd driver (it needs the packages nbdfuse and
 * fuse3). The device ends with this process: a restarted driver cannot take it over, and a volume in use does not
 * grow. For trying the driver out, not for production.
 */
import { existsSync, mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CsiError, type DeviceAttacher, runProgram } from "../../blockdev/csi";
import type { Client } from "../client";
import { toCsiError } from "./csi-volumes";

const SHOWN_MS_MAX = 60_000;
const GONE_MS_MAX = 60_000;
const LOOK_AGAIN_MS = 50;

interface FuseDevice {
  readonly child: Bun.Subprocess<"ignore", "ignore", "pipe">;
  readonly file: string;
  readonly device: string;
  readonly sizeBytes: number;
}

async function until(
  action: string,
  msMax: number,
  condition: () => boolean | Promise<boolean>,
): Promise<void> {
  for (const deadlineMs = performance.now() + msMax; !(await condition()); await Bun.sleep(LOOK_AGAIN_MS))
    if (performance.now() > deadlineMs)
      throw new CsiError("unavailable", `Cannot ${action}: not done after ${msMax} ms`);
}

export class FuseAttacher implements DeviceAttacher {
  readonly #attached = new Map<string, FuseDevice>();
  readonly #socketPath: string;

  private constructor(
    private readonly client: Client,
    private readonly folder: string,
  ) {
    this.#socketPath = join(folder, "nbd.sock");
  }

  static async start(client: Client, folder: string): Promise<FuseAttacher> {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const attacher = new FuseAttacher(client, folder);
    await client.plane.openFrontEnd({
      listen: [`unix:${attacher.#socketPath}`],
      only: undefined,
      keepOpen: [],
    });
    return attacher;
  }

  async attach(volumeName: string): Promise<string> {
    const existing = this.#attached.get(volumeName);
    if (existing !== undefined) return existing.device;
    const { sizeBytes, attached } = await this.client.metadata.volumes.info(volumeName).catch((error) => {
      throw toCsiError(error);
    });
    if (attached !== undefined)
      throw new CsiError(
        "failed-precondition",
        `Cannot attach volume "${volumeName}": it is attached by ${attached.holder}; it is free when that detaches, or its lease ends`,
      );
    const file = join(this.folder, Buffer.from(volumeName).toString("hex").slice(0, 200));
    writeFileSync(file, "");
    const uri = `nbd+unix:///${encodeURIComponent(volumeName)}?socket=${this.#socketPath}`;
    const child = Bun.spawn(["nbdfuse", file, uri], { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
    try {
      await until(`attach volume "${volumeName}"`, SHOWN_MS_MAX, async () => {
        if (child.exitCode !== null)
          throw new CsiError(
            "internal",
            `Cannot attach volume "${volumeName}": nbdfuse ended: ${(await new Response(child.stderr).text()).trim()}`,
          );
        return statSync(file).size === sizeBytes;
      });
      const device = await runProgram(`attach ${file}`, ["losetup", "--find", "--show", file]);
      this.#attached.set(volumeName, { child, file, device, sizeBytes });
      return device;
    } catch (error) {
      child.kill();
      await child.exited;
      rmSync(file, { force: true });
      throw error;
    }
  }

  recover(): Promise<string | undefined> {
    return Promise.resolve(undefined);
  }

  async detach(volumeName: string): Promise<void> {
    const attached = this.#attached.get(volumeName);
    if (attached === undefined) return;
    const { child, file, device } = attached;
    // Each step may have been done by a call before, which failed at the next.
    const isLooped = async () =>
      (await runProgram(`look at ${file}`, ["losetup", "--associated", file])) !== "";
    if (await isLooped()) {
      await runProgram(`flush ${device}`, ["blockdev", "--flushbufs", device]);
      await runProgram(`detach ${device}`, ["losetup", "--detach", device]);
      await until(`detach ${device}`, GONE_MS_MAX, async () => !(await isLooped()));
    }
    if (child.exitCode === null) await runProgram(`unmount ${file}`, ["fusermount3", "-u", file]);
    await child.exited;
    if (existsSync(file)) rmSync(file);
    this.#attached.delete(volumeName);
    // The server gives the volume up when its last client has left.
    await until(`detach volume "${volumeName}"`, GONE_MS_MAX, async () => {
      return (await this.client.metadata.volumes.info(volumeName)).attached === undefined;
    });
  }

  async refreshSize(volumeName: string): Promise<void> {
    const attached = this.#attached.get(volumeName);
    const { sizeBytes } = await this.client.metadata.volumes.info(volumeName);
    if (attached === undefined || attached.sizeBytes !== sizeBytes)
      throw new CsiError(
        "failed-precondition",
        `Cannot grow volume "${volumeName}" while it is in use: its device is by fuse; stage it again`,
      );
  }
}
