/**
 * Networks that lose packets without a word, between real namespaces: a peer, a client or etcd cut off from some or
 * from all, in both directions or in one. What the rules promise is held while the cut lasts (writes go on while
 * enough peers are reached, whether etcd is or not; nothing old or torn is ever read), everything recovers by itself
 * when it ends, and then every page is what a prefix of the writes has left, no shorter than what was acknowledged.
 * A client that is cut off past its lease while another opens the volume writes nothing more, whatever it still
 * reaches.
 */
import { expect } from "bun:test";
import {
  Cluster,
  History,
  Intruders,
  type NbdServer,
  Network,
  networkObstacle,
  openScene,
  planRounds,
} from "./harness";

const PAGE_COUNT = 1024;
const WRITES_MIN = 40;
const WRITES_MAX = 200;
const WRITES_MEANWHILE = 60;
const CUT_MS_MIN = 1_500;
const CUT_MS_MAX = 6_000;
/** Past the lease of a volume (15 s), so that reads wait. */
const PAST_LEASE_MS = 18_000;
/** How long a read is watched that must not be answered yet. */
const READ_WAITS_MS = 1_000;
/** Until a client that is reached again knows that it lost the volume. */
const REFUSED_MS_MAX = 60_000;
const PEERS = ["peer-1", "peer-2", "peer-3"];
const HOSTS = ["etcd", ...PEERS, "client", "other", "admin"];

const KINDS = [
  "peer from all",
  "client from one peer",
  "requests to one peer lost",
  "answers of one peer lost",
  "client from all peers",
  "peers from each other",
  "peers from etcd",
  "one peer from etcd",
  "client from etcd",
  "client from all, another opens",
  "client from etcd, another opens",
  "answers to the client lost, another opens",
] as const;
type Kind = (typeof KINDS)[number];

interface Stage {
  readonly cluster: Cluster;
  readonly network: Network;
  readonly server: NbdServer;
  readonly history: History;
  /** Connected to the server since before anything was cut. */
  readonly intruders: Intruders;
  readonly below: (limit: number) => number;
}

const cutMs = ({ below }: Stage) => Bun.sleep(CUT_MS_MIN + below(CUT_MS_MAX - CUT_MS_MIN));
const somePeer = ({ below }: Stage) => PEERS[below(PEERS.length)] as string;

/** Cuts that leave enough to write on with. */
async function writesGoOn(stage: Stage): Promise<void> {
  await stage.history.advance(WRITES_MEANWHILE);
  await cutMs(stage);
  await stage.history.advance(WRITES_MEANWHILE);
  await stage.network.heal();
  await stage.history.advance(WRITES_MEANWHILE);
}

/** Whether the first client is heard or not: another takes its volume and writes, and the first is done with it. */
async function takeOver(stage: Stage): Promise<void> {
  const { cluster, network, history, server, intruders } = stage;
  const other = await cluster.serve("other", [history.volume], { host: network.host("other") });
  await history.halt();
  await history.verify(other.uri(history.volume));
  await history.write(other.uri(history.volume));
  await history.advance(WRITES_MEANWHILE);
  await intruders.ask();
  await history.advance(WRITES_MEANWHILE);
  intruders.checkSilence();
  await network.heal();
  await intruders.refused(REFUSED_MS_MAX);
  await history.advance(WRITES_MEANWHILE);
  await history.halt();
  await history.verify(other.uri(history.volume));
  expect(await other.stop()).toBe(0);
  await server.kill();
}

const FAULTS: Readonly<Record<Kind, (stage: Stage) => Promise<void>>> = {
  "peer from all": async (stage) => {
    const peer = somePeer(stage);
    await stage.network.cutBetween([peer], HOSTS);
    await writesGoOn(stage);
  },
  "client from one peer": async (stage) => {
    await stage.network.cut("client", somePeer(stage));
    await writesGoOn(stage);
  },
  "requests to one peer lost": async (stage) => {
    await stage.network.cutOneWay("client", somePeer(stage));
    await writesGoOn(stage);
  },
  "answers of one peer lost": async (stage) => {
    await stage.network.cutOneWay(somePeer(stage), "client");
    await writesGoOn(stage);
  },
  "client from all peers": async (stage) => {
    await stage.network.cutBetween(["client"], PEERS);
    await cutMs(stage);
    await stage.network.heal();
    await stage.history.advance(WRITES_MEANWHILE);
  },
  "peers from each other": async (stage) => {
    await stage.network.cutBetween(PEERS, PEERS);
    await writesGoOn(stage);
  },
  "peers from etcd": async (stage) => {
    await stage.network.cutBetween(PEERS, ["etcd"]);
    await Bun.sleep(PAST_LEASE_MS);
    await writesGoOn(stage);
  },
  "one peer from etcd": async (stage) => {
    await stage.network.cut(somePeer(stage), "etcd");
    await writesGoOn(stage);
  },
  "client from etcd": async (stage) => {
    await stage.network.cut("client", "etcd");
    await Bun.sleep(PAST_LEASE_MS);
    await stage.history.advance(WRITES_MEANWHILE);
    // Nobody else has opened, but nobody knows that here: a read waits until the lease is renewed.
    await stage.intruders.ask();
    await Bun.sleep(READ_WAITS_MS);
    stage.intruders.checkSilence();
    await stage.network.heal();
    await stage.intruders.answered();
    await stage.history.advance(WRITES_MEANWHILE);
  },
  "client from all, another opens": async (stage) => {
    await stage.network.cutBetween(["client"], HOSTS);
    await takeOver(stage);
  },
  "client from etcd, another opens": async (stage) => {
    await stage.network.cut("client", "etcd");
    await takeOver(stage);
  },
  "answers to the client lost, another opens": async (stage) => {
    for (const host of HOSTS) if (host !== "client") await stage.network.cutOneWay(host, "client");
    await takeOver(stage);
  },
};

/** Writes without reads, which the lease guards, where the lease ends. */
const WRITES_ONLY: readonly Kind[] = ["client from etcd"];

/** Of one peer: the others must be enough for everything. */
const NEEDS_ALL_COPIES: readonly Kind[] = [
  "peer from all",
  "client from one peer",
  "requests to one peer lost",
  "answers of one peer lost",
];

async function round(stage: Stage, kind: Kind): Promise<void> {
  const { history, server, below } = stage;
  if (NEEDS_ALL_COPIES.includes(kind)) await stage.cluster.whole();
  await history.write(server.uri(history.volume), { reads: !WRITES_ONLY.includes(kind) });
  await history.advance(WRITES_MIN + below(WRITES_MAX - WRITES_MIN));
  await FAULTS[kind](stage);
  const stallMs = history.stallMsMax;
  await history.halt();
  await stage.intruders.end();
  if (!server.running) await server.start();
  await history.verify(server.uri(history.volume));
  if (stallMs > 0) console.log(`  longest stall of a flush: ${stallMs} ms`);
}

const obstacle = networkObstacle();
if (obstacle !== undefined) console.log(`skipped: partitions (${obstacle})`);
else {
  const scene = openScene("crash-partitions");
  scene.test(
    "what was flushed survives partitions of every kind, and whoever was cut off too long writes nothing",
    async () => {
      const { chance, kinds } = planRounds("crash-partitions", KINDS, 4);
      const network = await Network.open(scene, HOSTS);
      const hosts = {
        etcd: network.host("etcd"),
        peers: PEERS.map((name) => network.host(name)),
        admin: network.host("admin"),
      };
      const cluster = await Cluster.withEtcd(scene, { hosts, peerCount: 3, replication: 2, size: "1GiB" });
      await cluster.createVolume("disk", `${PAGE_COUNT * 4}KiB`);
      const server = await cluster.serve("blk", ["disk"], {
        host: network.host("client"),
        flags: ["--read-cache-size", "0"],
      });
      const history = new History(scene, "disk", PAGE_COUNT);
      for (const [index, kind] of kinds.entries()) {
        const startedMs = performance.now();
        const intruders = await Intruders.connect(
          scene,
          server.uri("disk"),
          WRITES_ONLY.includes(kind) ? ["read"] : undefined,
        );
        const stage: Stage = {
          ...{ cluster, network, server, history, intruders },
          below: (limit) => chance.below(limit),
        };
        await round(stage, kind).catch((error: unknown) => {
          throw new Error(`Round ${index + 1} (${kind}): ${error instanceof Error ? error.message : error}`, {
            cause: error,
          });
        });
        const timeMs = Math.round(performance.now() - startedMs);
        console.log(`round ${index + 1}, ${kind}: ok, ${history.writeCount} writes so far, ${timeMs} ms`);
      }
    },
    3_600_000,
  );
}
