/**
 * Machines of a test that can lose one another. Each host has a network namespace of its own and an address; a router
 * in one more namespace joins them. What is cut there is dropped without a word, as a pulled cable or a firewall does
 * it: nobody is told, connections just hear nothing more. A cut has a direction, so that requests may pass whose
 * answers are lost. All of it is made of namespaces, veth pairs and routing rules, which every kernel has; it vanishes
 * with the processes that hold the namespaces. Needs root.
 */
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

export class Network {
  private readonly hosts = new Map<string, Host>();
  private readonly cuts = new Set<string>();

  private constructor(
    private readonly scene: Scene,
    private readonly router: ManagedProcess,
  ) {}

  static async open(scene: Scene, names: readonly string[]): Promise<Network> {
    const router = await namespace(scene, "router");
    const network = new Network(scene, router);
    await network.route("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward");
    for (const [index, name] of names.entries()) await network.addHost(name, index + 1);
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
