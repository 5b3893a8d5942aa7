/**
 * Daemons on bare disks (loop devices here): one daemon a disk, two of them in one machine. A disk that holds something
 * else is refused and left as it is unless told; what was acknowledged survives kill -9 of every daemon in the middle
 * of writes; no two copies lie in one machine.
 */
import { expect } from "bun:test";
import { existsSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Cluster, type Daemon, mountObstacle, nbdsh, openScene, waitFor } from "./harness";

const scene = openScene("bare-disks");
const MEBIBYTE = 1024 * 1024;
const DISK_MEBIBYTES = 320;
const VOLUME_MEBIBYTES = 64;
/** The last disk is twice as large, in a machine of its own. */
const MACHINES = ["left", "left", "right"];

const obstacle = mountObstacle();

const page = (index: string) => `bytes([(${index}) % 250 + 1]) * 16384`;
const PAGE_COUNT = VOLUME_MEBIBYTES * 64;
/** Says after which page everything is durable. */
const FILL = `
for i in range(${PAGE_COUNT}):
    h.pwrite(${page("i")}, i * 16384)
    if i % 64 == 63:
        h.flush()
        print(i, flush=True)
print("filled")
`;
const VERIFY = `
for i in range(${PAGE_COUNT}):
    assert h.pread(16384, i * 16384) == ${page("i")}, i
print("verified")
`;

async function makeDisk(name: string, mebibytes: number): Promise<string> {
  const file = scene.path(name);
  writeFileSync(file, "");
  truncateSync(file, mebibytes * MEBIBYTE);
  const device = (await scene.run(["losetup", "--find", "--show", file])).stdout.trim();
  scene.defer(async () => {
    await scene.run(["losetup", "--detach", device]);
  });
  return device;
}

interface HeldBlock {
  readonly peerId: string;
  readonly block: string;
}

if (obstacle !== undefined) console.log(`skipped: bare disks (${obstacle})`);
else
  scene.test(
    "daemons on bare disks keep what they acknowledged through kill -9, each copy in another machine",
    async () => {
      const cluster = await Cluster.withEtcd(scene, { peerCount: 0, size: "100%" });
      const devices: string[] = [];
      const daemons: Daemon[] = [];
      for (const [index, machine] of MACHINES.entries()) {
        const device = await makeDisk(`disk-${index}`, DISK_MEBIBYTES);
        devices.push(device);
        const weight = machine === "left" ? "1" : "2";
        const flags = ["--block-device", device, "--zone", machine, "--weight", weight];
        daemons.push(await cluster.addDaemon(index, { flags }));
      }

      // Somebody's file system: the daemon does not start, and the file system is whole.
      const foreign = devices[0] as string;
      await scene.run(["mkfs.ext4", "-q", "-L", "precious", foreign]);
      await expect((daemons[0] as Daemon).start()).rejects.toThrow(
        `Cannot use ${foreign}: it holds an ext file system; give another device, or lose what it holds with --force-format`,
      );
      expect((await scene.run(["e2label", foreign])).stdout.trim()).toBe("precious");
      await scene.run(["e2fsck", "-fn", foreign]);
      const taken = ["--block-device", foreign, "--zone", "left", "--weight", "1", "--force-format"];
      daemons[0] = await cluster.addDaemon(0, { flags: taken });
      for (const daemon of daemons) await daemon.start();
      const intruder = await cluster.addDaemon(3, { flags: ["--block-device", foreign] });
      await expect(intruder.start()).rejects.toThrow(`Cannot use ${foreign}`);

      await waitFor("all disks to be in the ring", async () => {
        const ring = await cluster.ctlJson<{ members: unknown[] }>("ring", "get");
        return ring.members.length === MACHINES.length;
      });
      await cluster.ctl("ring", "set-replication", "2");
      await cluster.createVolume("disk", `${VOLUME_MEBIBYTES}MiB`);
      const server = await cluster.serve("blk", ["disk"]);
      const writer = await scene.start("writer", [
        ...["/usr/bin/python3", "-m", "nbd", "-u", server.uri("disk"), "-c", FILL],
      ]);
      await waitFor("some to be written", async () => writer.output().includes("511\n"));
      for (const daemon of daemons) await daemon.kill();
      for (const daemon of daemons) await daemon.start();
      await waitFor("all to be written", async () => writer.output().includes("filled"), 120_000);
      await writer.ended(10_000);
      expect(writer.exitCode).toBe(0);
      for (const daemon of daemons) await daemon.restart();
      expect(await nbdsh(scene, server.uri("disk"), VERIFY)).toContain("verified");
      expect(await server.stop()).toBe(0);
      // Nothing but the disks holds it: it is read back from them alone, by daemons that stopped in order.
      for (const daemon of daemons) {
        expect(existsSync(join(daemon.dataFolder, "blocks"))).toBe(false);
        expect(await daemon.stop()).toBe(0);
        await daemon.start();
      }
      await server.start();
      expect(await nbdsh(scene, server.uri("disk"), VERIFY)).toContain("verified");
      expect(await server.stop()).toBe(0);

      await waitFor(
        "all copies to be where they belong",
        async () => {
          await Bun.sleep(500);
          const { exitCode } = await cluster.attempt(["ctl", "ring", "check", ...cluster.metaFlags]);
          return exitCode === 0;
        },
        120_000,
      );
      const ring = await cluster.ctlJson<{ members: { peerId: string; zone: string }[] }>("ring", "get");
      const machineOf = new Map(ring.members.map(({ peerId, zone }) => [peerId, zone]));
      const machines = new Map<string, string[]>();
      for (const { peerId, block } of await cluster.ctlJson<HeldBlock[]>("peer", "blocks"))
        machines.set(block, [...(machines.get(block) ?? []), machineOf.get(peerId) as string]);
      expect(machines.size).toBeGreaterThan(VOLUME_MEBIBYTES);
      for (const [block, names] of machines)
        expect({ block, names: names.toSorted() }).toEqual({ block, names: ["left", "right"] });
    },
    300_000,
  );
