/** A real etcd of one member, with its data in the scene's folder, so that it survives kill -9. */
import { freePort } from "./ports";
import { type Host, httpGet, LOOPBACK } from "./network";
import type { ManagedProcess } from "./process";
import { waitFor } from "./process";
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

  async restart(): Promise<void> {
    const client = `http://${this.endpoint}`;
    const peer = `http://127.0.0.1:${this.peerPort}`;
    const command = [
      "etcd",
      ...["--name", this.name, "--data-dir", this.scene.path(`${this.name}-data`), "--log-level", "warn"],
      ...["--listen-client-urls", client, "--advertise-client-urls", client],
      ...["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
      ...["--initial-cluster", `${this.name}=${peer}`],
    ];
    this.process = await this.scene.start(this.name, command, { host: this.host });
    await waitFor("etcd to be healthy", async () => {
      const { status, text } = await httpGet(this.scene, this.host, `${client}/health`);
      return status === 200 && text.includes("true");
    });
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
