/** A real etcd of one member on loopback, with its data in the scene's folder, so that it survives kill -9. */
import { freePort } from "./ports";
import type { ManagedProcess } from "./process";
import { waitFor } from "./process";
import type { Scene } from "./scene";

export class Etcd {
  private process: ManagedProcess | undefined;

  private constructor(
    private readonly scene: Scene,
    private readonly name: string,
    readonly clientPort: number,
    private readonly peerPort: number,
  ) {}

  static async start(scene: Scene, name = "etcd"): Promise<Etcd> {
    const etcd = new Etcd(scene, name, await freePort(), await freePort());
    await etcd.restart();
    return etcd;
  }

  /** `host:port`, as --etcd takes it. */
  get endpoint(): string {
    return `127.0.0.1:${this.clientPort}`;
  }

  /** As --meta takes it. */
  get metaUrl(): string {
    return `etcd://${this.endpoint}`;
  }

  async restart(): Promise<void> {
    const client = `http://${this.endpoint}`;
    const peer = `http://127.0.0.1:${this.peerPort}`;
    this.process = await this.scene.start(this.name, [
      "etcd",
      ...["--name", this.name, "--data-dir", this.scene.path(`${this.name}-data`), "--log-level", "warn"],
      ...["--listen-client-urls", client, "--advertise-client-urls", client],
      ...["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
      ...["--initial-cluster", `${this.name}=${peer}`],
    ]);
    await waitFor("etcd to be healthy", async () => {
      const answer = await fetch(`${client}/health`, { signal: AbortSignal.timeout(2_000) });
      return answer.ok && (await answer.text()).includes("true");
    });
  }

  async kill(): Promise<void> {
    await this.process?.kill();
  }
}
