/**
 * Machines of a test that can lose one another. Each host has a network namespace of its own and an address; a router
 * in one more namespace joins them. What is cut there is dropped without a word, as a pulled cable or a firewall does
 * it: nobody is told, connections just hear nothing more. A cut has a direction, so that requests may pass whose
 * answers are lost. Or every packet takes a while, as over a long cable. All of it is made of namespaces, veth pairs,
 * routing rules and a tun device, which every kernel has; it vanishes with the processes that hold the namespaces.
 * Needs root.
 */
import { join } from "node:path";
import { execPath } from "node:process";
import { type ManagedProcess, waitFor } from "./process";
import type { Scene } from "./scene";

/** A place where processes run: how to get in, and under which address they are found. */
export interface Host {
  readonly name: string;
  readonly address: string;
  /** Command prefix that enters the host. */
  readonly enter: readonly string[];
}

/** The machine of the test itself. */
export const LOOPBACK: Host = { name: "loopback", address: "127.0.0.1", enter: [] };

const REQUEST_MS_MAX = 2_000;
const GET = `
const answer = await fetch(process.argv[1], { signal: AbortSignal.timeout(${REQUEST_MS_MAX}) });
console.log(answer.status, await answer.text());
`;

/** Status and text of a GET sent from a host. */
export async function httpGet(
  scene: Scene,
  host: Host,
  url: string,
): Promise<{ status: number; text: string }> {
  if (host === LOOPBACK) {
    const answer = await fetch(url, { signal: AbortSignal.timeout(REQUEST_MS_MAX) });
    return { status: answer.status, text: await answer.text() };
  }
  const { stdout } = await scene.run([execPath, "-e", GET, url], { host });
  const [status = "", ...text] = stdout.split(" ");
  return { status: Number(status), text: text.join(" ") };
}

/** Why namespaces cannot be made here, or undefined when they can. */
export function networkObstacle(): string | undefined {
  return process.getuid?.() === 0 ? undefined : "network namespaces need root";
}

export interface NetworkOptions {
  /** How long a packet takes from one host to another; 0 takes the same way at once. By default there is no such way. */
  readonly delayMs?: number;
}

/** Few large packets: what is looked at is the time they take, not the work of cutting them. */
const SLOW_MTU_BYTES = 65_000;
const SLOW_TABLE = "77";
/**
 * Every kernel has it and lets a namespace have it. One that paces by its own estimate (BBR) takes longer for a lone
 * large answer.
 */
const CONGESTION_CONTROL = "reno";

export class Network {
  private readonly hosts = new Map<string, Host>();
  private readonly cuts = new Set<string>();

  private constructor(
    private readonly scene: Scene,
    private readonly router: ManagedProcess,
  ) {}

  static async open(
    scene: Scene,
    names: readonly string[],
    { delayMs }: NetworkOptions = {},
  ): Promise<Network> {
    const router = await namespace(scene, "router");
    const network = new Network(scene, router);
    await network.route("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward");
    for (const [index, name] of names.entries()) await network.addHost(name, index + 1);
    if (delayMs !== undefined) await network.slowDown(delayMs, names.length);
    return network;
  }

  host(name: string): Host {
    const host = this.hosts.get(name);
    if (host === undefined) throw new Error(`There is no host ${name}`);
    return host;
  }

  /** From now on nothing of what `from` sends reaches `to`; the other direction is left as it is. */
  async cutOneWay(from: string, to: string): Promise<void> {
    const key = `${from} ${to}`;
    if (this.cuts.has(key)) return;
    await this.route("ip", "rule", "add", ...this.selector(key), "blackhole");
    this.cuts.add(key);
  }

  /** Neither side hears the other. */
  async cut(one: string, other: string): Promise<void> {
    await this.cutOneWay(one, other);
    await this.cutOneWay(other, one);
  }

  /** Cuts every pair between the two groups. */
  async cutBetween(some: readonly string[], others: readonly string[]): Promise<void> {
    for (const one of some) for (const other of others) if (one !== other) await this.cut(one, other);
  }

  /** Everybody hears everybody again. */
  async heal(): Promise<void> {
    for (const key of this.cuts) await this.route("ip", "rule", "del", ...this.selector(key), "blackhole");
    this.cuts.clear();
  }

  private selector(key: string): string[] {
    const [from = "", to = ""] = key.split(" ");
    return ["from", this.host(from).address, "to", this.host(to).address];
  }

  private async addHost(name: string, index: number): Promise<void> {
    const holder = await namespace(this.scene, name);
    const enter = entering(holder);
    const subnet = `10.77.${index}`;
    const link = `to-${index}`;
    await this.route(
      ...["ip", "link", "add", link, "type", "veth"],
      ...["peer", "name", "lan", "netns", String(holder.pid)],
    );
    await this.route("ip", "addr", "add", `${subnet}.1/24`, "dev", link);
    await this.route("ip", "link", "set", link, "up");
    const host: Host = { name, address: `${subnet}.2`, enter };
    for (const line of [
      ["addr", "add", `${host.address}/24`, "dev", "lan"],
      ["link", "set", "lan", "up"],
      ["route", "add", "default", "via", `${subnet}.1`],
    ])
      await this.scene.run(["ip", ...line], { host });
    this.hosts.set(name, host);
  }

  /** Sends whatever comes from a host through a device that keeps it for a while. */
  private async slowDown(delayMs: number, hostCount: number): Promise<void> {
    const program = join(import.meta.dir, "workers/packet-delay.ts");
    const delay = await this.scene.start("packet-delay", [
      ...entering(this.router),
      ...[execPath, program, String(delayMs)],
    ]);
    await waitFor("packets to be delayed", () => {
      if (!delay.running) throw new Error(`they cannot be: ${delay.output()}`);
      return delay.output().includes("ready");
    });
    // What comes back from the device comes from where no host is.
    await this.route("sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done");
    await this.route("ip", "link", "set", "slow", "mtu", String(SLOW_MTU_BYTES), "up");
    await this.route("ip", "route", "add", "default", "dev", "slow", "table", SLOW_TABLE);
    for (let index = 1; index <= hostCount; index++) {
      const link = `to-${index}`;
      await this.route("ip", "link", "set", link, "mtu", String(SLOW_MTU_BYTES));
      await this.route("ip", "rule", "add", "iif", link, "table", SLOW_TABLE);
    }
    for (const host of this.hosts.values()) {
      await this.scene.run(["ip", "link", "set", "lan", "mtu", String(SLOW_MTU_BYTES)], { host });
      const control = `echo ${CONGESTION_CONTROL} > /proc/sys/net/ipv4/tcp_congestion_control`;
      await this.scene.run(["sh", "-c", control], { host });
    }
  }

  private async route(...command: string[]): Promise<void> {
    await this.scene.run([...entering(this.router), ...command]);
  }
}

function entering(holder: ManagedProcess): string[] {
  return ["nsenter", "--net", "--target", String(holder.pid)];
}

/** A process that does nothing but hold a new network namespace, whose loopback is up. */
async function namespace(scene: Scene, name: string): Promise<ManagedProcess> {
  const holder = await scene.start(`network-${name}`, [
    ...["unshare", "--net", "sh", "-c"],
    "ip link set lo up && echo up && exec sleep infinity",
  ]);
  await waitFor(`the network of ${name}`, () => {
    if (!holder.running) throw new Error(`it cannot be made: ${holder.output()}`);
    return holder.output().includes("up");
  });
  return holder;
}
