/** Starts meta-server.ts as a process of its own, to be killed and stopped by its id. */
import { join } from "node:path";
import { freePort } from "./etcd";
import { stopProcess } from "./stopped";

export class MetaServerProcess {
  readonly url: string;
  readonly #child: Bun.Subprocess<"ignore", "pipe", "inherit">;

  private constructor(url: string, child: Bun.Subprocess<"ignore", "pipe", "inherit">) {
    this.url = url;
    this.#child = child;
  }

  /** Resolves when it listens. */
  static async start(path: string, port?: number): Promise<MetaServerProcess> {
    const chosenPort = port ?? (await freePort());
    const script = join(import.meta.dir, "workers/meta-server.ts");
    const child = Bun.spawn([process.execPath, script, path, String(chosenPort)], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "inherit",
    });
    const reader = child.stdout.getReader();
    const line = await reader.read();
    if (line.done) throw new Error("the metadata server did not start");
    reader.releaseLock();
    return new MetaServerProcess(`http://127.0.0.1:${chosenPort}`, child);
  }

  async streamCount(): Promise<number> {
    return Number(await (await fetch(`${this.url}/streams`)).text());
  }

  pause(): void {
    stopProcess(this.#child.pid);
  }

  unpause(): void {
    this.#child.kill("SIGCONT");
  }

  async kill(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.exited;
  }
}
