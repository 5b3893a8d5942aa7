/**
 * A real etcd for tests: started on free loopback ports with its data on a temporary folder, killed, paused,
 * restarted and ended by its own process id.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stopProcess } from "./stopped";

const START_DEADLINE_MS = 20_000;

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as { port: number };
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}

export interface EtcdProcessOptions {
  /** Extra flags, e.g. for TLS. */
  readonly flags?: readonly string[];
  readonly tls?: { readonly caFile: string; readonly certificateFile: string; readonly keyFile: string };
}

export class EtcdProcess {
  readonly port: number;
  readonly name: string;
  readonly peerUrl: string;
  readonly #folder: string;
  readonly #options: EtcdProcessOptions;
  #process: Bun.Subprocess | undefined;

  #members: readonly EtcdProcess[] = [this];

  private constructor(name: string, port: number, peerPort: number, options: EtcdProcessOptions) {
    this.name = name;
    this.port = port;
    this.peerUrl = `http://127.0.0.1:${peerPort}`;
    this.#options = options;
    this.#folder = mkdtempSync(join(tmpdir(), "torus-etcd-"));
  }

  static async start(options: EtcdProcessOptions = {}): Promise<EtcdProcess> {
    const etcd = new EtcdProcess("one", await freePort(), await freePort(), options);
    await etcd.resume();
    return etcd;
  }

  /** A cluster of several members. */
  static async startCluster(count: number, options: EtcdProcessOptions = {}): Promise<EtcdProcess[]> {
    const members: EtcdProcess[] = [];
    for (let index = 0; index < count; index++)
      members.push(new EtcdProcess(`m${index}`, await freePort(), await freePort(), options));
    for (const member of members) member.#members = members;
    await Promise.all(members.map((member) => member.resume()));
    return members;
  }

  /** Whether this member leads its cluster now. */
  async isLeader(): Promise<boolean> {
    const { output } = await this.control("endpoint", "status", "--write-out=json");
    const status = (JSON.parse(output) as { Status: { leader: number; header: { member_id: number } } }[])[0]
      ?.Status;
    return status !== undefined && status.leader === status.header.member_id;
  }

  get endpoint(): string {
    return `127.0.0.1:${this.port}`;
  }

  get scheme(): string {
    return this.#options.tls ? "https" : "http";
  }

  /** Starts the process again on the same data, and waits until it answers. */
  async resume(): Promise<void> {
    const url = `${this.scheme}://${this.endpoint}`;
    const initialCluster = this.#members.map((member) => `${member.name}=${member.peerUrl}`).join(",");
    this.#process = Bun.spawn(
      [
        "etcd",
        "--name",
        this.name,
        "--data-dir",
        join(this.#folder, "data"),
        "--listen-client-urls",
        // A second address, which no certificate of the tests names.
        `${url},${this.scheme}://127.0.0.2:${this.port}`,
        "--advertise-client-urls",
        url,
        "--listen-peer-urls",
        this.peerUrl,
        "--initial-advertise-peer-urls",
        this.peerUrl,
        "--initial-cluster",
        initialCluster,
        "--heartbeat-interval=50",
        "--election-timeout=500",
        "--unsafe-no-fsync",
        ...(this.#options.flags ?? []),
      ],
      { stdout: "ignore", stderr: "ignore" },
    );
    const deadline = Date.now() + START_DEADLINE_MS;
    while (Date.now() < deadline) {
      if (this.#process.exitCode !== null) throw new Error(`etcd ended with ${this.#process.exitCode}`);
      const { exitCode } = await this.control("endpoint", "health");
      if (exitCode === 0) return;
      await Bun.sleep(50);
    }
    throw new Error("etcd did not answer in time");
  }

  /** Runs etcdctl against it. */
  async control(...args: readonly string[]): Promise<{ exitCode: number; output: string }> {
    const { tls } = this.#options;
    const child = Bun.spawn(
      [
        "etcdctl",
        `--endpoints=${this.scheme}://${this.endpoint}`,
        "--dial-timeout=1s",
        "--command-timeout=3s",
        ...(tls ? [`--cacert=${tls.caFile}`, `--cert=${tls.certificateFile}`, `--key=${tls.keyFile}`] : []),
        ...args,
      ],
      { env: { ...process.env, ETCDCTL_API: "3" }, stdout: "pipe", stderr: "pipe" },
    );
    const output = (await new Response(child.stdout).text()) + (await new Response(child.stderr).text());
    return { exitCode: await child.exited, output };
  }

  /** Compacts the whole history away. */
  async compact(revision: number): Promise<void> {
    const { exitCode, output } = await this.control("compact", String(revision), "--physical");
    if (exitCode !== 0 && !output.includes("compacted")) throw new Error(output);
  }

  pause(): void {
    if (this.#process !== undefined) stopProcess(this.#process.pid);
  }

  unpause(): void {
    this.#process?.kill("SIGCONT");
  }

  async kill(): Promise<void> {
    this.#process?.kill("SIGKILL");
    await this.#process?.exited;
    this.#process = undefined;
  }

  async remove(): Promise<void> {
    await this.kill();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
