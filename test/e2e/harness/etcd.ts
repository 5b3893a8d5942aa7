/** A real etcd of one member, with its data in the scene's folder, so that it survives kill -9. */
import { rmSync } from "node:fs";
import { freePort } from "./ports";
import { type Host, httpGet, LOOPBACK } from "./network";
import { type CommandResult, type ManagedProcess, waitFor } from "./process";
import type { Scene } from "./scene";

export class Etcd {
  private process: ManagedProcess | undefined;

  private constructor(
    private readonly scene: Scene,
    private readonly name: string,
    private readonly host: Host,
    readonly clientPort: number,
    private readonly peerPort: number,
  ) {}

  static async start(scene: Scene, name = "etcd", host: Host = LOOPBACK): Promise<Etcd> {
    const etcd = new Etcd(scene, name, host, await freePort(), await freePort());
    await etcd.restart();
    return etcd;
  }

  /** `host:port`, as --etcd takes it. */
  get endpoint(): string {
    return `${this.host.address}:${this.clientPort}`;
  }

  /** As --meta takes it. */
  get metaUrl(): string {
    return `etcd://${this.endpoint}`;
  }

  private get dataFolder(): string {
    return this.scene.path(`${this.name}-data`);
  }

  /** The flags that a member and a restored snapshot of it have in common. */
  private get memberFlags(): string[] {
    const peer = `http://127.0.0.1:${this.peerPort}`;
    return [
      ...["--name", this.name, "--data-dir", this.dataFolder],
      ...["--initial-advertise-peer-urls", peer, "--initial-cluster", `${this.name}=${peer}`],
    ];
  }

  async restart(): Promise<void> {
    const client = `http://${this.endpoint}`;
    const command = [
      ...["etcd", "--log-level", "warn", ...this.memberFlags],
      ...["--listen-client-urls", client, "--advertise-client-urls", client],
      ...["--listen-peer-urls", `http://127.0.0.1:${this.peerPort}`],
    ];
    this.process = await this.scene.start(this.name, command, { host: this.host });
    await waitFor("etcd to be healthy", async () => {
      const { status, text } = await httpGet(this.scene, this.host, `${client}/health`);
      return status === 200 && text.includes("true");
    });
  }

  /** As an administrator backs it up. */
  async save(path: string): Promise<void> {
    await this.etcdctl("--endpoints", this.endpoint, "snapshot", "save", path);
  }

  /** Killed, and started again with what was saved. */
  async restore(path: string): Promise<void> {
    await this.kill();
    rmSync(this.dataFolder, { recursive: true });
    await this.etcdctl("snapshot", "restore", path, ...this.memberFlags);
    await this.restart();
  }

  private etcdctl(...args: string[]): Promise<CommandResult> {
    return this.scene.run(["etcdctl", ...args], { env: { ETCDCTL_API: "3" } });
  }

  async kill(): Promise<void> {
    await this.process?.kill();
  }

  /** It keeps its connections and answers nothing, until `resume`. */
  pause(): void {
    this.process?.pause();
  }

  resume(): void {
    this.process?.resume();
  }
}
