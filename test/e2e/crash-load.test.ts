/**
 * kill -9 of everything under the loads that the benchmark measures: 4 KiB writes by chance, 16 at once, with a flush
 * among every 16 or with FUA, and 1 MiB writes in a row. Client, daemons and etcd die in the middle of it; after the
 * restart everything must be there that was answered as durable, in whole pages and in order. So no figure of the
 * benchmark counts what is not durable.
 */
import { expect } from "bun:test";
import { Cluster, openScene, planRounds, startLoadWriter, verifyLoad } from "./harness";

const KIBIBYTE = 1024;
const MEBIBYTE = 1024 * KIBIBYTE;
const VOLUME_BYTES = 64 * MEBIBYTE;
/** From when enough is durable until everything dies, at most. */
const PAUSE_MS_MAX = 1_500;

const random4k = {
  unitBytes: 4 * KIBIBYTE,
  unitCount: VOLUME_BYTES / (4 * KIBIBYTE),
  stride: 7919,
  depth: 16,
};
const KINDS = ["4k, flush every 16", "4k, FUA", "1m in a row"] as const;
type Kind = (typeof KINDS)[number];
const SHAPES = {
  "4k, flush every 16": { ...random4k, writesPerFlush: 16 },
  "4k, FUA": random4k,
  "1m in a row": {
    unitBytes: MEBIBYTE,
    unitCount: VOLUME_BYTES / MEBIBYTE,
    stride: 1,
    depth: 4,
    writesPerFlush: 4,
  },
} as const;
/** Durable writes before anything is killed. */
const WRITES_MIN: Readonly<Record<Kind, number>> = {
  "4k, flush every 16": 1_000,
  "4k, FUA": 1_000,
  "1m in a row": 64,
};

const scene = openScene("crash-load");

scene.test(
  "what was durable under the benchmark's load survives kill -9 of everything",
  async () => {
    const { chance, kinds } = planRounds("crash-load", KINDS, KINDS.length);
    const cluster = await Cluster.withEtcd(scene, { peerCount: 3, replication: 2, size: "1GiB" });
    for (const [index, kind] of kinds.entries()) {
      // A volume for each round: its numbers begin anew, and no older state can pass for this one's.
      const volume = `load-${index + 1}`;
      const shape = SHAPES[kind];
      await cluster.createVolume(volume, `${VOLUME_BYTES / MEBIBYTE}MiB`);
      const server = await cluster.serve(`blk-${volume}`, [volume], { flags: ["--read-cache-size", "0"] });
      const writer = await startLoadWriter(scene, server.uri(volume), shape, 1);
      await writer.advance(WRITES_MIN[kind]);
      await Bun.sleep(chance.below(PAUSE_MS_MAX));
      await Promise.all([
        server.kill(),
        ...cluster.daemons.map((daemon) => daemon.kill()),
        cluster.etcd!.kill(),
      ]);
      const end = await writer.end();
      expect(end.durable).toBeGreaterThanOrEqual(WRITES_MIN[kind]);
      await cluster.etcd!.restart();
      await Promise.all(cluster.daemons.map((daemon) => daemon.start()));
      await server.start();
      const newest = await verifyLoad(scene, server.uri(volume), shape, end);
      console.log(
        `round ${index + 1}, ${kind}: ok, ${end.lastSent} sent, ${end.durable + end.durableAlone.length} durable, all up to ${newest} there`,
      );
      expect(await server.stop()).toBe(0);
      await cluster.ctl("volume", "delete", volume);
    }
  },
  3_600_000,
);
