/**
 * kill -9, at moments and of processes chosen by chance: clients, daemons, etcd, alone and together, also while they
 * are starting again. Two volumes are written and read all the time; after every round all is started again and every
 * page of both must be what a prefix of the writes has left, no shorter than what a flush acknowledged. While no more
 * than one daemon, or etcd, is gone, the clients must not see an error.
 */
import { expect } from "bun:test";
import { Cluster, History, type NbdServer, openScene, planRounds } from "./harness";

const PAGE_COUNT = 1024;
const WRITES_MIN = 40;
const WRITES_MAX = 300;
/** Writes that must go through while something is gone that they do not need. */
const WRITES_MEANWHILE = 60;
const PAUSE_MS_MAX = 700;

const KINDS = [
  "everything",
  "client",
  "daemon",
  "two daemons",
  "all daemons",
  "etcd",
  "daemon and client",
  "etcd and clients",
  "client while it opens",
  "daemon while it starts",
] as const;
type Kind = (typeof KINDS)[number];

const scene = openScene("crash-kills");

interface Client {
  readonly history: History;
  readonly server: NbdServer;
}

type Daemon = Cluster["daemons"][number];

interface Stage {
  readonly cluster: Cluster;
  readonly clients: readonly Client[];
  readonly below: (limit: number) => number;
}

function someDaemons(stage: Stage, count: number): Daemon[] {
  const rest = [...stage.cluster.daemons];
  return Array.from({ length: count }, () => rest.splice(stage.below(rest.length), 1)[0] as Daemon);
}

const pause = (stage: Stage) => Bun.sleep(stage.below(PAUSE_MS_MAX));

/** Starts something and kills it somewhere on its way. */
async function killOnTheWay(stage: Stage, one: Daemon | NbdServer): Promise<void> {
  const starting = one.start().catch(() => undefined);
  await Bun.sleep(50 + stage.below(PAUSE_MS_MAX));
  await one.kill();
  await starting;
  await one.kill();
}

async function killClients(clients: readonly Client[]): Promise<void> {
  await Promise.all(clients.map(({ server }) => server.kill()));
  await Promise.all(clients.map(({ history }) => history.halt()));
}

async function goOn(clients: readonly Client[], writeCount = WRITES_MEANWHILE): Promise<void> {
  await Promise.all(clients.map(({ history }) => history.advance(writeCount)));
}

/** Kills and brings back; which clients were killed is seen by their servers. */
const FAULTS: Readonly<Record<Kind, (stage: Stage) => Promise<void>>> = {
  client: ({ clients }) => killClients(clients.slice(0, 1)),
  daemon: async (stage) => {
    const [daemon] = someDaemons(stage, 1) as [Daemon];
    await daemon.kill();
    await goOn(stage.clients);
    await daemon.start();
    await goOn(stage.clients);
  },
  "two daemons": async (stage) => {
    const daemons = someDaemons(stage, 2);
    await Promise.all(daemons.map((daemon) => daemon.kill()));
    await pause(stage);
    await Promise.all(daemons.map((daemon) => daemon.start()));
  },
  "all daemons": async (stage) => {
    const daemons = someDaemons(stage, 3);
    for (const daemon of daemons) {
      await daemon.kill();
      await Bun.sleep(stage.below(50));
    }
    await pause(stage);
    await Promise.all(daemons.map((daemon) => daemon.start()));
  },
  etcd: async (stage) => {
    await stage.cluster.etcd!.kill();
    await goOn(stage.clients);
    await stage.cluster.etcd!.restart();
    await goOn(stage.clients);
  },
  "daemon and client": async (stage) => {
    const [daemon] = someDaemons(stage, 1) as [Daemon];
    await Promise.all([daemon.kill(), killClients(stage.clients.slice(0, 1))]);
    await stage.clients[0]!.server.start();
    await goOn(stage.clients.slice(1));
    await daemon.start();
  },
  "etcd and clients": async (stage) => {
    await Promise.all([stage.cluster.etcd!.kill(), killClients(stage.clients)]);
    await pause(stage);
    await stage.cluster.etcd!.restart();
  },
  everything: async (stage) => {
    const { cluster, clients } = stage;
    await Promise.all([
      ...cluster.daemons.map((daemon) => daemon.kill()),
      cluster.etcd!.kill(),
      killClients(clients),
    ]);
    await cluster.etcd!.restart();
    await Promise.all(cluster.daemons.map((daemon) => daemon.start()));
  },
  "client while it opens": async (stage) => {
    await killClients(stage.clients.slice(0, 1));
    for (let time = 1 + stage.below(2); time > 0; time--) await killOnTheWay(stage, stage.clients[0]!.server);
  },
  "daemon while it starts": async (stage) => {
    const [daemon] = someDaemons(stage, 1) as [Daemon];
    await daemon.kill();
    for (let time = 1 + stage.below(2); time > 0; time--) await killOnTheWay(stage, daemon);
    await goOn(stage.clients);
    await daemon.start();
  },
};

/** The others must not have noticed: with so much gone, a client may be told of an I/O error. */
const MAY_FAIL_REQUESTS: readonly Kind[] = ["two daemons", "all daemons"];

/** Of one daemon: the others must be enough for everything. */
const NEEDS_ALL_COPIES: readonly Kind[] = ["daemon", "daemon and client", "daemon while it starts"];

async function round(stage: Stage, kind: Kind): Promise<void> {
  const { clients, below } = stage;
  if (NEEDS_ALL_COPIES.includes(kind)) await stage.cluster.whole();
  await Promise.all(clients.map(({ history, server }) => history.write(server.uri(history.volume))));
  await goOn(clients, WRITES_MIN + below(WRITES_MAX - WRITES_MIN));
  await Bun.sleep(below(100));
  await FAULTS[kind](stage);
  for (const { history, server } of clients)
    if (server.running && !MAY_FAIL_REQUESTS.includes(kind) && !history.writing && history.output() !== "")
      throw new Error(`The writer of ${history.volume} ended: ${history.output().slice(-500)}`);
  await Promise.all(clients.map(({ history }) => history.halt()));
  for (const { history, server } of clients) {
    if (!server.running) await server.start();
    await history.verify(server.uri(history.volume));
  }
}

scene.test(
  "what was flushed survives kills of every kind, whole and in order",
  async () => {
    const { chance, kinds } = planRounds("crash-kills", KINDS, KINDS.length);
    const cluster = await Cluster.withEtcd(scene, { peerCount: 3, replication: 2, size: "1GiB" });
    const clients: Client[] = [];
    for (const volume of ["one", "two"]) {
      await cluster.createVolume(volume, `${PAGE_COUNT * 4}KiB`);
      // Without a cache every page that is not on its way comes from a peer.
      const server = await cluster.serve(`blk-${volume}`, [volume], { flags: ["--read-cache-size", "0"] });
      clients.push({ history: new History(scene, volume, PAGE_COUNT), server });
    }
    const stage: Stage = { cluster, clients, below: (limit) => chance.below(limit) };
    for (const [index, kind] of kinds.entries()) {
      const startedMs = performance.now();
      await round(stage, kind).catch((error: unknown) => {
        throw new Error(`Round ${index + 1} (${kind}): ${error instanceof Error ? error.message : error}`, {
          cause: error,
        });
      });
      const writes = clients.map(({ history }) => history.writeCount).join(" + ");
      console.log(
        `round ${index + 1}, ${kind}: ok, ${writes} writes so far, ${Math.round(performance.now() - startedMs)} ms`,
      );
    }
    // All of it once more from the peers alone, by clients that know nothing of before.
    for (const { history, server } of clients) {
      expect(await server.stop()).toBe(0);
      await server.start();
      await history.verify(server.uri(history.volume));
    }
  },
  3_600_000,
);
