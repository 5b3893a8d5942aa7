/**
 * Disks that lie: one peer's files are damaged in every way that a disk, a crash or a hand can do it, while a volume is
 * in use. Never is a wrong byte served. Damaged bytes of blocks are found by whoever reads them or by a scrub, and
 * healed from the other copies. What the store cannot know to be harmless keeps the daemon from starting, with a
 * message that names the file and says what to do; doing so brings everything back, each time to two good copies.
 */
import { expect } from "bun:test";
import {
  closeSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  statSync,
  truncateSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { Cluster, History, type NbdServer, nbdsh, openScene, planRounds, waitFor } from "./harness";

const PAGE_COUNT = 1024;
const WRITES = 200;
const CALM_MEBIBYTES = 24;
const STORE = "256MiB";
const STORE_BYTES = 256 * 1024 * 1024;
/** The byte table of engine/store/layout.ts: superblocks, then the journal, then two checkpoints, then data. */
const SUPERBLOCK_BYTES = 4096;
const JOURNAL_OFFSET = 2 * SUPERBLOCK_BYTES;
const JOURNAL_SHARE = 64;
const RECORD_BYTES = 64;
const SECTOR_BYTES = 512;
const FLIPS = 40;
const SETTLE_MS_MAX = 240_000;
const LOOK_MS = 500;

const KINDS = [
  "bits of data that is read",
  "bits of data that a scrub finds",
  "a journal record",
  "the journal cut off",
  "a data file deleted",
  "one superblock",
  "both superblocks",
  "the state file",
  "the state file deleted",
  "bits anywhere",
] as const;
type Kind = (typeof KINDS)[number];

const scene = openScene("crash-disks");

type Daemon = Cluster["daemons"][number];

interface Stage {
  readonly cluster: Cluster;
  /** Whose disk lies. */
  readonly daemon: Daemon;
  readonly server: NbdServer;
  readonly history: History;
  readonly below: (limit: number) => number;
}

interface ScrubStatus {
  readonly unrepaired: readonly unknown[];
  readonly peers: readonly {
    readonly state: string;
    readonly blocksCorrupt: number;
    readonly blocksRepaired: number;
    readonly startedWallMs: number;
    readonly finishedWallMs: number;
  }[];
}

const blocksFolder = ({ daemon }: Stage) => join(daemon.dataFolder, "blocks");

/** The files of the store: `data` holds blocks, `state` who the peer is and what it promised. */
function files(stage: Stage): { data: string[]; state: string } {
  const folder = blocksFolder(stage);
  const sized = readdirSync(folder)
    .map((name) => ({ path: join(folder, name), bytes: statSync(join(folder, name)).size }))
    .filter(({ bytes }) => bytes > 0);
  return {
    data: sized.filter(({ bytes }) => bytes > STORE_BYTES / 4).map(({ path }) => path),
    state: sized.find(({ path }) => path.includes("state"))!.path,
  };
}

/** Flips one bit in each of `count` pieces of `pieceBytes` that hold something, chosen by chance; returns how many. */
function flip(
  stage: Stage,
  path: string,
  range: readonly [number, number],
  pieceBytes: number,
  count: number,
): number {
  const file = openSync(path, "r+");
  const used: number[] = [];
  const chunk = Buffer.alloc(1024 * 1024);
  for (let offset = range[0]; offset < range[1]; offset += chunk.length) {
    const length = readSync(file, chunk, 0, Math.min(chunk.length, range[1] - offset), offset);
    for (let at = 0; at + pieceBytes <= length; at += pieceBytes)
      if (chunk.subarray(at, at + pieceBytes).some((byte) => byte !== 0)) used.push(offset + at);
  }
  let flipped = 0;
  for (; flipped < count && used.length > 0; flipped++) {
    const [piece] = used.splice(stage.below(used.length), 1) as [number];
    const at = piece + stage.below(pieceBytes);
    readSync(file, chunk, 0, 1, at);
    writeSync(file, Uint8Array.of((chunk[0] as number) ^ (1 << stage.below(8))), 0, 1, at);
  }
  closeSync(file);
  return flipped;
}

const journalEnd = (path: string) => JOURNAL_OFFSET + statSync(path).size / JOURNAL_SHARE;
/** After the two checkpoints, each half as long as the journal. */
const dataStart = (path: string) => JOURNAL_OFFSET + (2 * statSync(path).size) / JOURNAL_SHARE;

function flipData(stage: Stage, count: number): number {
  const [path] = files(stage).data as [string];
  return flip(stage, path, [dataStart(path), statSync(path).size], SECTOR_BYTES, count);
}

/** Every page of the calm volume tells which one it is. */
const CALM = `
def mebibyte(number):
    return b"".join(bytes([(number * 256 + page) % 250 + 1]) * 4096 for page in range(256))
`;
const FILL = `${CALM}
for i in range(${CALM_MEBIBYTES}):
    h.pwrite(mebibyte(i), i << 20)
h.flush()
print("filled")
`;
const VERIFY = `${CALM}
for i in range(${CALM_MEBIBYTES}):
    assert h.pread(1 << 20, i << 20) == mebibyte(i), i
print("verified")
`;

async function verifyCalm({ server }: Stage): Promise<void> {
  expect(await nbdsh(scene, server.uri("calm"), VERIFY)).toContain("verified");
}

async function looks(what: string, condition: () => Promise<boolean>): Promise<void> {
  const look = async () => {
    await Bun.sleep(LOOK_MS);
    return condition();
  };
  await waitFor(what, look, SETTLE_MS_MAX);
}

async function scrub({ cluster }: Stage): Promise<{ corrupt: number; repaired: number }> {
  const status = () => cluster.ctlJson<ScrubStatus>("scrub", "status");
  const startedBefore = (await status()).peers.map((peer) => peer.startedWallMs);
  await cluster.ctl("scrub", "start");
  let found: ScrubStatus | undefined;
  await looks("the scrub to end on all peers", async () => {
    found = await status();
    return found.peers.every(
      (peer, index) =>
        peer.state === "idle" &&
        peer.startedWallMs > (startedBefore[index] as number) &&
        peer.finishedWallMs >= peer.startedWallMs,
    );
  });
  // Of a block that is dead there may be no other copy any more: collection takes the bad one, too.
  await looks("no bad copy to be left", async () => (await status()).unrepaired.length === 0);
  const { peers } = found!;
  return {
    corrupt: peers.reduce((sum, peer) => sum + peer.blocksCorrupt, 0),
    repaired: peers.reduce((sum, peer) => sum + peer.blocksRepaired, 0),
  };
}

/** The store refuses, and says what is wrong, where, and what to do; the file is named by `about`. */
async function refuses({ daemon }: Stage, about: RegExp): Promise<void> {
  const refusal = await daemon.start().then(
    () => "",
    (error: unknown) => String(error),
  );
  if (refusal === "") throw new Error("The daemon started on a damaged store");
  expect(refusal).toMatch(/Cannot open store in \S+/);
  expect(refusal).toMatch(about);
  expect(refusal).toContain("start with --accept-loss");
  expect(refusal).not.toMatch(/\n\s+at /);
}

/** Does what the message says. */
async function acceptLoss(stage: Stage): Promise<void> {
  await stage.daemon.start(["--accept-loss"]);
  expect(stage.daemon.output()).toContain("Went on with what is intact, as a new disk");
  // From now on it starts as ever.
  await stage.daemon.restart();
}

async function refusesAndHeals(stage: Stage, about: RegExp): Promise<void> {
  await refuses(stage, about);
  await stage.history.advance(WRITES);
  await acceptLoss(stage);
}

/** What is done to the disk of a daemon that was killed, or, with data that is in use, of one that runs. */
const DAMAGES: Readonly<Record<Kind, (stage: Stage) => Promise<void>>> = {
  "bits of data that is read": async (stage) => {
    expect(flipData(stage, FLIPS)).toBe(FLIPS);
    await verifyCalm(stage);
    await stage.history.advance(WRITES);
    await scrub(stage);
    expect(await scrub(stage)).toEqual({ corrupt: 0, repaired: 0 });
  },
  "bits of data that a scrub finds": async (stage) => {
    expect(flipData(stage, FLIPS)).toBe(FLIPS);
    const found = await scrub(stage);
    expect(found.repaired).toBeGreaterThan(0);
    expect(await scrub(stage)).toEqual({ corrupt: 0, repaired: 0 });
  },
  "a journal record": async (stage) => {
    await stage.daemon.kill();
    const [path] = files(stage).data as [string];
    expect(flip(stage, path, [JOURNAL_OFFSET, journalEnd(path)], RECORD_BYTES, 1)).toBe(1);
    await refusesAndHeals(stage, /record \d+ of the journal|the journal goes on/);
  },
  "the journal cut off": async (stage) => {
    await stage.daemon.kill();
    const [path] = files(stage).data as [string];
    truncateSync(path, JOURNAL_OFFSET + stage.below(4096));
    await refusesAndHeals(stage, new RegExp(path.split("/").at(-1) as string));
  },
  "a data file deleted": async (stage) => {
    await stage.daemon.kill();
    const [path] = files(stage).data as [string];
    rmSync(path);
    await refusesAndHeals(stage, new RegExp(`${path.split("/").at(-1)} is missing`));
  },
  "one superblock": async (stage) => {
    await stage.daemon.kill();
    const [path] = files(stage).data as [string];
    const at = SUPERBLOCK_BYTES * stage.below(2);
    flip(stage, path, [at, at + SECTOR_BYTES], SECTOR_BYTES, 1);
    // The other one may be all that is needed, or older than what is known to be durable.
    await stage.daemon.start().catch(() => refusesAndHeals(stage, /Cannot open store/));
  },
  "both superblocks": async (stage) => {
    await stage.daemon.kill();
    const [path] = files(stage).data as [string];
    for (const at of [0, SUPERBLOCK_BYTES]) flip(stage, path, [at, at + SECTOR_BYTES], SECTOR_BYTES, 1);
    await refusesAndHeals(stage, /superblock|is empty/);
  },
  "the state file": async (stage) => {
    await stage.daemon.kill();
    const { state } = files(stage);
    flip(stage, state, [0, statSync(state).size], RECORD_BYTES, 1_000);
    await refusesAndHeals(stage, /state/);
  },
  "the state file deleted": async (stage) => {
    await stage.daemon.kill();
    rmSync(files(stage).state);
    await refusesAndHeals(stage, /state is missing/);
  },
  "bits anywhere": async (stage) => {
    await stage.daemon.kill();
    const { data, state } = files(stage);
    for (const path of [...data, state])
      flip(stage, path, [0, statSync(path).size], RECORD_BYTES, 1 + stage.below(FLIPS));
    await stage.daemon.start().catch(() => refusesAndHeals(stage, /Cannot open store/));
    await scrub(stage);
  },
};

/** Everything reads right from the healed peer and any one of the others. */
async function holdsEverything(stage: Stage): Promise<void> {
  const { cluster, daemon, history, server } = stage;
  await cluster.whole();
  for (const other of cluster.daemons.filter((one) => one !== daemon)) {
    await other.kill();
    await verifyCalm(stage);
    await history.verify(server.uri(history.volume));
    await other.start();
  }
}

async function round(stage: Stage, kind: Kind): Promise<void> {
  const { history, server } = stage;
  await history.write(server.uri(history.volume));
  await history.advance(WRITES);
  await DAMAGES[kind](stage);
  await history.advance(WRITES);
  await history.halt();
  await history.verify(server.uri(history.volume));
  await verifyCalm(stage);
  await holdsEverything(stage);
}

scene.test(
  "damage on one disk never shows, is named, and heals",
  async () => {
    const { chance, kinds } = planRounds("crash-disks", KINDS, 3);
    const cluster = await Cluster.withEtcd(scene, { peerCount: 3, replication: 2, size: STORE });
    await cluster.createVolume("disk", `${PAGE_COUNT * 4}KiB`);
    await cluster.createVolume("calm", `${CALM_MEBIBYTES}MiB`);
    await cluster.ctl("scrub", "rate", "400MiB");
    const server = await cluster.serve("blk", ["disk", "calm"], { flags: ["--read-cache-size", "0"] });
    expect(await nbdsh(scene, server.uri("calm"), FILL)).toContain("filled");
    const history = new History(scene, "disk", PAGE_COUNT);
    for (const [index, kind] of kinds.entries()) {
      const startedMs = performance.now();
      const below = (limit: number) => chance.below(limit);
      const daemon = cluster.daemons[below(cluster.daemons.length)] as Daemon;
      await round({ cluster, daemon, server, history, below }, kind).catch((error: unknown) => {
        throw new Error(`Round ${index + 1} (${kind}): ${error instanceof Error ? error.message : error}`, {
          cause: error,
        });
      });
      console.log(`round ${index + 1}, ${kind}: ok, ${Math.round(performance.now() - startedMs)} ms`);
    }
  },
  3_600_000,
);
