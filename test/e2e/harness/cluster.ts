/**
 * torus itself on the stage: daemons, the metadata they share, `torus ctl` and `torus blk nbdserve`. Every part can
 * be killed and started again with the same flags, ports and data. No test knows a flag or a JSON field that is
 * not named here.
 */
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { torusBinary } from "./binary";
import { nbdlist, tcpUri, unixUri } from "./clients";
import { Etcd } from "./etcd";
import { type Host, httpGet, LOOPBACK } from "./network";
import { freePort } from "./ports";
import { type CommandOptions, type CommandResult, type ManagedProcess, waitFor } from "./process";
import type { Scene } from "./scene";

const READY_MS_MAX = 120_000;
/** A killed client's lock is free when its lease has ended. */
const TAKEOVER_MS_MAX = 90_000;

const WHOLE_LOOK_MS = 500;

export type PeerScheme = "adp" | "http";

/** PEM files. */
export interface CertificateFiles {
  readonly certFile: string;
  readonly keyFile: string;
  readonly caFile: string;
}

export function certificateFlags({ certFile, keyFile, caFile }: CertificateFiles): string[] {
  return ["--peer-cert-file", certFile, "--peer-key-file", keyFile, "--peer-ca-file", caFile];
}

/** Makes an authority by `torus ctl cert` in the scene's folder `certs`, and then a certificate for each name asked for. */
export async function certificateFactory(
  scene: Scene,
): Promise<(name: string, role: string) => Promise<CertificateFiles>> {
  const binary = await torusBinary();
  const folder = scene.path("certs");
  await scene.run([binary, "ctl", "cert", "init", "--dir", folder]);
  return async (name, role) => {
    const hosts = ["--hosts", "127.0.0.1,localhost"];
    await scene.run([binary, "ctl", "cert", "issue", name, "--role", role, ...hosts, "--dir", folder]);
    return {
      certFile: `${folder}/${name}.pem`,
      keyFile: `${folder}/${name}.key`,
      caFile: `${folder}/ca.pem`,
    };
  };
}

/** Machines of a cluster that is spread over a network. */
export interface ClusterHosts {
  readonly etcd: Host;
  readonly peers: readonly Host[];
  /** Where `torus ctl` runs. */
  readonly admin: Host;
}

export interface ClusterOptions {
  /** By default all is on the machine of the test. */
  readonly hosts?: ClusterHosts;
  /** Tells the clusters of one scene apart. */
  readonly name?: string;
  readonly peerCount: number;
  readonly scheme?: PeerScheme;
  /** Copies of every block; set once all peers have joined. Default 1. */
  readonly replication?: number;
  /** `--size` of each daemon. */
  readonly size?: string;
  /** Daemons serve by TLS with the one certificate; ctl and clients have the other. */
  readonly tls?: { readonly daemon: CertificateFiles; readonly admin: CertificateFiles };
  /** Further flags of every daemon. */
  readonly daemonFlags?: readonly string[];
}

export class Daemon {
  private process: ManagedProcess | undefined;

  constructor(
    private readonly cluster: Cluster,
    readonly name: string,
    readonly dataFolder: string,
    readonly adminPort: number,
    readonly peerPort: number,
    private readonly flags: readonly string[],
    private readonly host: Host,
  ) {}

  get adminUrl(): string {
    return `${this.cluster.tls === undefined ? "http" : "https"}://${this.host.address}:${this.adminPort}`;
  }

  /** A request to the admin server, with the administrator's certificate where there is TLS. */
  ask(path: string, options: RequestInit = {}): Promise<Response> {
    const { tls } = this.cluster;
    const pem = (file: string) => readFileSync(file, "utf8");
    return fetch(`${this.adminUrl}${path}`, {
      signal: AbortSignal.timeout(2_000),
      ...options,
      ...(tls === undefined
        ? {}
        : {
            tls: { cert: pem(tls.admin.certFile), key: pem(tls.admin.keyFile), ca: pem(tls.admin.caFile) },
          }),
    });
  }

  output(): string {
    return this.process?.output() ?? "";
  }

  get pid(): number {
    if (this.process === undefined) throw new Error(`${this.name} was never started`);
    return this.process.pid;
  }

  get running(): boolean {
    return this.process?.running ?? false;
  }

  /** `onceFlags` hold for this start only. */
  async start(onceFlags: readonly string[] = []): Promise<void> {
    const binary = await torusBinary();
    this.process = await this.cluster.scene.start(
      this.name,
      [binary, "daemon", ...this.flags, ...onceFlags],
      {
        env: this.cluster.environment,
        host: this.host,
      },
    );
    const started = this.process;
    await waitFor(
      `${this.name} to be ready`,
      async () => {
        if (!started.running) return true;
        if (this.host === LOOPBACK) return (await this.ask("/readyz")).ok;
        return (await httpGet(this.cluster.scene, this.host, `${this.adminUrl}/readyz`)).status === 200;
      },
      READY_MS_MAX,
    );
    if (!started.running) throw new Error(`${this.name} ended with ${started.exitCode}: ${started.output()}`);
  }

  async kill(): Promise<void> {
    await this.process?.kill();
  }

  async stop(): Promise<number | null> {
    return (await this.process?.stop()) ?? null;
  }

  pause(): void {
    this.process?.pause();
  }

  resume(): void {
    this.process?.resume();
  }

  async restart(): Promise<void> {
    await this.kill();
    await this.start();
  }
}

export interface ServeOptions {
  readonly flags?: readonly string[];
  /** Listens on this port of loopback; without it on a unix socket. */
  readonly tcpPort?: number;
  /** Instead of the administrator's. */
  readonly certificate?: CertificateFiles;
  /** The machine it runs on; its unix socket is reached from everywhere. */
  readonly host?: Host;
}

/** `torus blk nbdserve`: the client side of a volume, in a process of its own. */
export class NbdServer {
  private process: ManagedProcess | undefined;
  readonly socketPath: string;

  constructor(
    private readonly cluster: Cluster,
    readonly name: string,
    readonly volumes: readonly string[],
    private readonly options: ServeOptions,
  ) {
    this.socketPath = cluster.scene.path(`${name}.sock`);
  }

  uri(volume: string): string {
    const { tcpPort } = this.options;
    return tcpPort === undefined ? unixUri(this.socketPath, volume) : tcpUri(tcpPort, volume);
  }

  get running(): boolean {
    return this.process?.running ?? false;
  }

  get pid(): number {
    if (this.process === undefined) throw new Error(`${this.name} was never started`);
    return this.process.pid;
  }

  output(): string {
    return this.process?.output() ?? "";
  }

  /** Starts it; while an earlier holder's lock has not ended yet, tries again. */
  async start(): Promise<void> {
    const endMs = performance.now() + TAKEOVER_MS_MAX;
    for (;;) {
      const ended = await this.tryStart();
      if (ended === undefined) return;
      if (performance.now() > endMs || !/attached|locked|lease/i.test(ended))
        throw new Error(`${this.name} did not start: ${ended}`);
      await Bun.sleep(250);
    }
  }

  async kill(): Promise<void> {
    await this.process?.kill();
  }

  async stop(): Promise<number | null> {
    return (await this.process?.stop()) ?? null;
  }

  pause(): void {
    this.process?.pause();
  }

  resume(): void {
    this.process?.resume();
  }

  /** Undefined when it serves; what it said when it ended instead. */
  private async tryStart(): Promise<string | undefined> {
    const binary = await torusBinary();
    const { tcpPort, flags = [], certificate } = this.options;
    const local = `unix:${this.socketPath}`;
    const address = tcpPort === undefined ? local : `127.0.0.1:${tcpPort},${local}`;
    const started = await this.cluster.scene.start(
      this.name,
      [
        ...[binary, "blk", "nbdserve", "--listen", address],
        ...this.cluster.metaFlagsWith(certificate),
        ...[...flags, ...this.volumes],
      ],
      {
        env: this.cluster.environment,
        ...(this.options.host === undefined ? {} : { host: this.options.host }),
      },
    );
    this.process = started;
    await waitFor(
      `${this.name} to serve`,
      async () => {
        if (!started.running) return true;
        if (tcpPort === undefined && !existsSync(this.socketPath)) return false;
        const names = await nbdlist(this.cluster.scene, this.uri(this.volumes[0] ?? ""));
        return this.volumes.every((volume) => names.includes(volume));
      },
      READY_MS_MAX,
    );
    return started.running ? undefined : `exit ${started.exitCode}: ${started.output()}`;
  }
}

export interface PeerRow {
  readonly peerId: string;
  readonly address: string;
  readonly usedBytes: number;
  readonly sizeBytes: number;
  readonly weight: number;
  readonly member: string;
}

export class Cluster {
  readonly daemons: Daemon[] = [];
  /** Keeps a person's ~/.torus out of the tests. */
  readonly environment: Record<string, string>;

  private constructor(
    readonly scene: Scene,
    readonly etcd: Etcd | undefined,
    private readonly options: ClusterOptions,
  ) {
    mkdirSync(scene.path("config"), { recursive: true });
    this.environment = { TORUS_CONFIG_DIR: scene.path("config") };
  }

  /** Daemons that share a real etcd; all have joined and the replication is set when this returns. */
  static async withEtcd(scene: Scene, options: ClusterOptions): Promise<Cluster> {
    const etcd = await Etcd.start(scene, "etcd", options.hosts?.etcd);
    const cluster = new Cluster(scene, etcd, options);
    await cluster.ctl("init");
    for (let index = 0; index < options.peerCount; index++) await (await cluster.addDaemon(index)).start();
    await waitFor("all peers to be in the ring", async () => {
      const ring = await cluster.ctlJson<{ members: unknown[] }>("ring", "get");
      return ring.members.length === options.peerCount;
    });
    if ((options.replication ?? 1) > 1)
      await cluster.ctl("ring", "set-replication", String(options.replication));
    return cluster;
  }

  /** One daemon that keeps its metadata itself. */
  static async embedded(scene: Scene, options: Omit<ClusterOptions, "peerCount"> = {}): Promise<Cluster> {
    const cluster = new Cluster(scene, undefined, { ...options, peerCount: 1 });
    await (await cluster.addDaemon(0)).start();
    return cluster;
  }

  get tls(): ClusterOptions["tls"] {
    return this.options.tls;
  }

  get metaFlags(): readonly string[] {
    return this.metaFlagsWith(this.tls?.admin);
  }

  /** Where the metadata is, for somebody with this certificate; by default the administrator's, where there is one. */
  metaFlagsWith(certificate = this.tls?.admin): readonly string[] {
    return [
      ...["--meta", this.etcd?.metaUrl ?? this.daemons[0]!.adminUrl],
      ...(certificate === undefined ? [] : certificateFlags(certificate)),
    ];
  }

  async torus(args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    return this.scene.run([await torusBinary(), ...args], this.commandOptions(options));
  }

  /** A torus command whatever its exit code. */
  async attempt(args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    return this.scene.attempt([await torusBinary(), ...args], this.commandOptions(options));
  }

  private commandOptions(options: CommandOptions): CommandOptions {
    const host = this.options.hosts?.admin;
    return { ...options, env: this.environment, ...(host === undefined ? {} : { host }) };
  }

  binary(): Promise<string> {
    return torusBinary();
  }

  /** A shell line with pipes that must succeed; `$TORUS` is the binary, which finds this cluster's metadata. */
  async shell(line: string, options: CommandOptions = {}): Promise<CommandResult> {
    const env = {
      ...this.environment,
      TORUS: await torusBinary(),
      TORUS_META: this.metaFlags[1] as string,
      ...options.env,
    };
    return this.scene.run(["bash", "-o", "pipefail", "-c", line], { ...options, env });
  }

  async ctl(...args: string[]): Promise<string> {
    return (await this.torus(["ctl", ...args, ...this.metaFlags])).stdout;
  }

  async ctlJson<T>(...args: string[]): Promise<T> {
    return JSON.parse(await this.ctl(...args, "--json")) as T;
  }

  async createVolume(name: string, size: string): Promise<void> {
    await this.ctl("volume", "create-block", name, size);
  }

  peers(): Promise<PeerRow[]> {
    return this.ctlJson<PeerRow[]>("peer", "list");
  }

  /** Bytes that the stores of all peers hold. */
  async usedBytes(): Promise<number> {
    return (await this.peers()).reduce((sum, peer) => sum + peer.usedBytes, 0);
  }

  /**
   * Waits until every block has all its copies and every volume writes all of them again. Only then the next failure
   * of one peer is the only one: while two were gone, volumes wrote a single copy.
   */
  async whole(timeMsMax = 240_000): Promise<void> {
    await waitFor(
      "all blocks to have their copies",
      async () => {
        await Bun.sleep(WHOLE_LOOK_MS);
        const { health } = await this.ctlJson<{ health: string }>("status");
        if (health !== "ok") throw new Error(await this.ctl("status"));
        const { stdout, stderr } = await this.attempt(["ctl", "ring", "check", "--json", ...this.metaFlags]);
        if (stdout === "") throw new Error(stderr);
        // What is needless only waits for the next checkpoint of a volume that is in use.
        const { missing, damaged, unasked } = JSON.parse(stdout) as Record<string, unknown[]>;
        if ([missing, damaged, unasked].some((some) => some!.length > 0))
          throw new Error(stdout.slice(0, 1_000));
        return true;
      },
      timeMsMax,
    );
  }

  /** Serves volumes by a process of their own. */
  async serve(name: string, volumes: readonly string[], options: ServeOptions = {}): Promise<NbdServer> {
    const server = new NbdServer(this, name, volumes, options);
    await server.start();
    return server;
  }

  /** Stops all daemons and etcd and removes their data, in a scene that goes on. */
  async destroy(): Promise<void> {
    for (const daemon of this.daemons) {
      await daemon.stop();
      rmSync(daemon.dataFolder, { recursive: true, force: true });
    }
    await this.etcd?.kill();
  }

  /** Adds one more daemon, not yet started; by default it joins the ring by itself. */
  async addDaemon(
    index: number,
    own: { readonly join?: boolean; readonly flags?: readonly string[] } = {},
  ): Promise<Daemon> {
    const name = `${this.options.name === undefined ? "" : `${this.options.name}-`}daemon-${index + 1}`;
    const [adminPort, peerPort] = [await freePort(), await freePort()];
    const dataFolder = this.scene.path(`${name}-data`);
    const host = this.options.hosts?.peers[index] ?? LOOPBACK;
    const flags = [
      ...["--data-dir", dataFolder],
      ...["--size", this.options.size ?? "2GiB"],
      ...["--peer-address", `${this.options.scheme ?? "adp"}://${host.address}:${peerPort}`],
      ...["--host", host.address, "--port", String(adminPort)],
      ...(this.etcd === undefined ? [] : ["--meta", this.etcd.metaUrl]),
      ...(this.etcd === undefined || own.join === false ? [] : ["--auto-join"]),
      ...(this.tls === undefined ? [] : certificateFlags(this.tls.daemon)),
      ...(this.options.daemonFlags ?? []),
      ...(own.flags ?? []),
    ];
    const daemon = new Daemon(this, name, dataFolder, adminPort, peerPort, flags, host);
    this.daemons.push(daemon);
    return daemon;
  }
}
