/**
 * What an administrator steers of background work: a scrub that heals damage planted on a disk, moving that is held
 * and let go, its pace, and a collection on request, all from a command that knows nothing but where metadata lives.
 */
import { expect } from "bun:test";
import { closeSync, openSync, readdirSync, readFileSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { Cluster, type NbdServer, nbdsh, openScene, waitFor } from "./harness";

const scene = openScene("placement-upkeep");
const MEBIBYTE = 1024 * 1024;
const VOLUME_MEBIBYTES = 32;
const LOOK_MS = 500;
/** Promised for an idle cluster. */
const SPACE_BACK_MS_MAX = 60_000;

interface ScrubStatus {
  readonly paused: boolean;
  readonly bytesPerSecond: number | null;
  readonly unrepaired: readonly unknown[];
  readonly peers: readonly {
    readonly peerId: string;
    readonly address: string;
    readonly state: string;
    readonly blocksChecked: number;
    readonly blocksCorrupt: number;
    readonly blocksRepaired: number;
    readonly rateBytesPerSecond: number;
    readonly startedWallMs: number;
    readonly finishedWallMs: number;
  }[];
}

interface RebalanceStatus {
  readonly settled: boolean;
  readonly paused: boolean;
  readonly peers: readonly {
    readonly address: string;
    readonly state: string;
    readonly blocksLeft?: number;
    readonly bytesLeft: number;
    readonly bytesMoved: number;
    readonly rateBytesPerSecond: number;
  }[];
}

interface RingCheck {
  readonly converged: boolean;
  readonly missing: readonly unknown[];
}

let cluster: Cluster;
let server: NbdServer;
let movedBeforeReturn = 0;

const page = (index: string) => `bytes([(${index}) % 250 + 1]) * 4096`;
const FILL = `
for i in range(${VOLUME_MEBIBYTES * 256}):
    h.pwrite(${page("i")}, i * 4096)
h.flush()
print("filled")
`;
const VERIFY = `
for i in range(${VOLUME_MEBIBYTES * 256}):
    assert h.pread(4096, i * 4096) == ${page("i")}, i
print("verified")
`;

/** What is written while a peer is away: the same bytes as before, in new blocks. */
const AWAY_MEBIBYTES = 4;
const REWRITE = `
for i in range(${AWAY_MEBIBYTES * 256}):
    h.pwrite(${page("i")}, i * 4096)
h.flush()
print("rewritten")
`;

const scrub = () => cluster.ctlJson<ScrubStatus>("scrub", "status");
const rebalance = () => cluster.ctlJson<RebalanceStatus>("rebalance", "status");

/** Bytes that the first daemon has sent to others since it started. */
async function movedByFirst(): Promise<number> {
  const { peers } = await rebalance();
  const first = peers.find((peer) => peer.address.endsWith(`:${cluster.daemons[0]!.peerPort}`));
  if (first === undefined) throw new Error("the first daemon is not listed");
  return first.bytesMoved;
}

async function looks(what: string, condition: () => Promise<boolean>, timeMsMax = 90_000): Promise<void> {
  await waitFor(
    what,
    async () => {
      await Bun.sleep(LOOK_MS);
      return condition();
    },
    timeMsMax,
  );
}

/** Flips a byte in pages of blocks' payloads, which hold one value each, in blocks apart. Returns how many. */
function damage(folder: string, countMax: number): number {
  let count = 0;
  for (const name of readdirSync(folder, { recursive: true }) as string[]) {
    const path = join(folder, name);
    if (!statSync(path).isFile() || count >= countMax) continue;
    const bytes = readFileSync(path);
    const file = openSync(path, "r+");
    for (let offset = 0; offset + 512 <= bytes.length && count < countMax; offset += 512) {
      const first = bytes[offset] as number;
      if (first === 0 || !bytes.subarray(offset, offset + 512).every((byte) => byte === first)) continue;
      writeSync(file, Uint8Array.of(first ^ 0x5a), 0, 1, offset + 100);
      count++;
      offset += 2 * MEBIBYTE;
    }
    closeSync(file);
  }
  return count;
}

async function converged(): Promise<boolean> {
  const { stdout, stderr } = await cluster.attempt(["ctl", "ring", "check", "--json", ...cluster.metaFlags]);
  if (stdout === "") throw new Error(stderr);
  const check = JSON.parse(stdout) as RingCheck;
  if (!check.converged) throw new Error(stdout.slice(0, 2_000));
  return true;
}

scene.test(
  "a scrub finds damage on a disk, heals it from the other copy, and says so",
  async () => {
    cluster = await Cluster.withEtcd(scene, { peerCount: 2, replication: 2, size: "512MiB" });
    await cluster.createVolume("disk", `${VOLUME_MEBIBYTES}MiB`);
    server = await cluster.serve("blk", ["disk"]);
    expect(await nbdsh(scene, server.uri("disk"), FILL)).toContain("filled");
    expect(await server.stop()).toBe(0);
    await looks("both peers to hold everything", converged);
    const planted = damage(join(cluster.daemons[0]!.dataFolder, "blocks"), 8);
    expect(planted).toBeGreaterThan(3);
    await cluster.ctl("scrub", "rate", "200MiB");
    const startedBefore = (await scrub()).peers.map((peer) => peer.startedWallMs);
    await cluster.ctl("scrub", "start");
    await looks("the scrub to end on both peers", async () => {
      const { peers } = await scrub();
      return peers.every(
        (peer, index) =>
          peer.state === "idle" &&
          peer.startedWallMs > (startedBefore[index] as number) &&
          peer.finishedWallMs >= peer.startedWallMs,
      );
    });
    const found = await scrub();
    const sum = (value: (peer: ScrubStatus["peers"][number]) => number) =>
      found.peers.reduce((total, peer) => total + value(peer), 0);
    expect(sum((peer) => peer.blocksCorrupt)).toBe(planted);
    expect(sum((peer) => peer.blocksRepaired)).toBe(planted);
    expect(found.unrepaired).toEqual([]);
    expect(found.peers.every((peer) => peer.rateBytesPerSecond === 200 * MEBIBYTE)).toBe(true);
    expect(sum((peer) => peer.blocksChecked)).toBeGreaterThan(VOLUME_MEBIBYTES);
    // Only the healed copies are left to read from.
    await server.start();
    await cluster.daemons[1]!.kill();
    expect(await nbdsh(scene, server.uri("disk"), VERIFY)).toContain("verified");
    expect(await nbdsh(scene, server.uri("disk"), REWRITE)).toContain("rewritten");
    movedBeforeReturn = await movedByFirst();
    // It cannot detach with two copies now; the next open puts the log's tail in order, which nobody else may move.
    expect(await server.stop()).not.toBeNull();
    await cluster.daemons[1]!.start();
    await server.start();
    expect(await server.stop()).toBe(0);
  },
  300_000,
);

scene.test(
  "moving is held, goes on at the pace that is asked for, and survives a restart",
  async () => {
    await looks("the returned peer to have what it lacked", converged);
    // It is given that and no more: its disk still has all it had.
    expect((await movedByFirst()) - movedBeforeReturn).toBeLessThan(3 * AWAY_MEBIBYTES * MEBIBYTE);
    await cluster.ctl("rebalance", "pause");
    await cluster.ctl("rebalance", "rate", "2MiB");
    await (await cluster.addDaemon(2)).start();
    await looks("all to be held", async () => {
      const { peers, paused } = await rebalance();
      return paused && peers.length === 3 && peers.every((peer) => peer.state === "paused");
    });
    expect(await cluster.ctl("status")).toContain("paused");
    const held = (await rebalance()).peers.reduce((sum, peer) => sum + peer.bytesMoved, 0);
    await cluster.daemons[0]!.restart();
    await cluster.ctl("rebalance", "resume");
    await looks("blocks to move slowly", async () => {
      const { peers } = await rebalance();
      if (!peers.every((peer) => peer.rateBytesPerSecond === 2 * MEBIBYTE)) return false;
      return peers.reduce((sum, peer) => sum + peer.bytesMoved, 0) !== held;
    });
    await cluster.ctl("rebalance", "rate", "default");
    await looks("all blocks to be where they belong", async () => (await rebalance()).settled && converged());
  },
  300_000,
);

scene.test(
  "the space of a deleted snapshot comes back within a minute",
  async () => {
    const usedBefore = await cluster.usedBytes();
    await cluster.ctl("block", "snapshot", "create", "disk@old");
    await server.start();
    expect(await nbdsh(scene, server.uri("disk"), FILL)).toContain("filled");
    expect(await server.stop()).toBe(0);
    await looks("the snapshot to hold space", async () => (await cluster.usedBytes()) > 1.8 * usedBefore);
    await cluster.ctl("block", "snapshot", "delete", "disk@old");
    await looks(
      "its space to come back",
      async () => (await cluster.usedBytes()) < 1.1 * usedBefore,
      SPACE_BACK_MS_MAX,
    );
    await server.start();
    expect(await nbdsh(scene, server.uri("disk"), VERIFY)).toContain("verified");
    expect(await server.stop()).toBe(0);
  },
  180_000,
);

scene.test(
  "a collection on request frees what a deleted volume held, on every peer",
  async () => {
    await cluster.ctl("volume", "delete", "disk");
    await cluster.ctl("gc", "run");
    await looks("every peer to be empty", async () => {
      const blocks = await cluster.ctlJson<unknown[]>("peer", "blocks");
      return blocks.length === 0;
    });
    const report = await cluster.ctlJson<{ blocksDeletedTotal: number; keptCount: number }[]>("gc", "status");
    expect(report.length).toBe(3);
    for (const { blocksDeletedTotal, keptCount } of report) {
      expect(blocksDeletedTotal).toBeGreaterThan(0);
      expect(keptCount).toBe(0);
    }
    // The peers' own word, told now and then.
    await looks("every peer to say that it uses nothing", async () => (await cluster.usedBytes()) === 0);
  },
  180_000,
);
