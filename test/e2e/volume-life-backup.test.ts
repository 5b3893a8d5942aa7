/** A nightly cycle: snapshot, export of the difference to a file, import into another cluster; and what goes wrong. */
import { describe, expect } from "bun:test";
import { randomInt } from "node:crypto";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { Cluster, openScene, qemuIo } from "./harness";

const ROUNDS = 5;
const SIZE_MEBIBYTES = 128;
const WRITES_A_ROUND = 12;

describe("incremental backups", () => {
  const scene = openScene("backup");
  let here: Cluster;
  let there: Cluster;
  const stream = (round: number) => scene.path(`round-${round}.diff`);

  async function sameContents(name: string): Promise<void> {
    const [a, b] = [scene.path("here.img"), scene.path("there.img")];
    await here.ctl("block", "dump", name, a);
    await there.ctl("block", "dump", name, b);
    await scene.run(["cmp", a, b]);
  }

  scene.test(
    "five rounds of snapshot, export-diff and import-diff give identical volumes in another cluster",
    async () => {
      here = await Cluster.embedded(scene, { name: "here", size: "2GiB" });
      there = await Cluster.embedded(scene, { name: "there", size: "2GiB" });
      await here.createVolume("data", `${SIZE_MEBIBYTES}MiB`);
      const server = await here.serve("blk", ["data"]);
      for (let round = 1; round <= ROUNDS; round++) {
        const commands = Array.from({ length: WRITES_A_ROUND }, (_, index) => {
          const offset = randomInt(SIZE_MEBIBYTES * 1024 - 1024) * 1024;
          const length = randomInt(1, 2048) * 512;
          return index % 4 === 3
            ? `discard ${offset} ${length}`
            : `write -P ${randomInt(1, 255)} ${offset} ${length}`;
        });
        await qemuIo(scene, server.uri("data"), [...commands, "flush"]);
        await here.ctl("block", "snapshot", "create", `data@night-${round}`);
        const from = round === 1 ? [] : ["--from", `night-${round - 1}`];
        await here.ctl("block", "export-diff", ...from, `data@night-${round}`, stream(round));
        await there.ctl("block", "import-diff", stream(round), "data");
        await sameContents(`data@night-${round}`);
        await sameContents("data");
      }
      for (let round = 1; round <= ROUNDS; round++) await sameContents(`data@night-${round}`);
      const bytes = Array.from({ length: ROUNDS }, (_, index) => statSync(stream(index + 1)).size);
      console.log(`streams of ${ROUNDS} rounds: ${bytes.join(", ")} B`);
      expect(await server.stop()).toBe(0);
    },
    300_000,
  );

  async function refused(cluster: Cluster, file: string, volume: string): Promise<string> {
    const result = await cluster.attempt(["ctl", "block", "import-diff", file, volume, ...cluster.metaFlags]);
    expect(result.exitCode).toBe(1);
    return result.stderr;
  }

  scene.test(
    "a stream whose base does not match is refused, and so is one for a volume that was written",
    async () => {
      // Round 2 again, under a name that is free: its base is there, but the volume is further on.
      const again = await there.attempt([
        ...["ctl", "block", "import-diff", stream(2), "data", "--snapshot", "again", ...there.metaFlags],
      ]);
      expect(again.exitCode).toBe(1);
      expect(again.stderr).toContain('it was written since its snapshot "night-1"');
      await there.createVolume("empty", `${SIZE_MEBIBYTES}MiB`);
      expect(await refused(there, stream(3), "empty")).toContain(
        "none of its snapshots is data@night-2, against which the stream was made",
      );
      expect(await refused(there, stream(1), "data")).toContain("it exists");
      await sameContents(`data@night-${ROUNDS}`);
      await sameContents("data");
    },
  );

  scene.test("a stream cut short or damaged leaves the target as it was", async () => {
    await there.ctl("block", "snapshot", "restore", "data@night-4");
    await there.ctl("block", "snapshot", "delete", "data@night-5");
    const whole = readFileSync(stream(ROUNDS));
    const cut = scene.path("cut.diff");
    writeFileSync(cut, whole.subarray(0, whole.length - 40));
    expect(await refused(there, cut, "data")).toContain("it ends too early");
    const damaged = Buffer.from(whole);
    damaged[whole.length - 33] = (damaged[whole.length - 33] as number) ^ 1;
    writeFileSync(cut, damaged);
    expect(await refused(there, cut, "data")).toContain("Cannot import the stream");
    const [a, b] = [scene.path("a.img"), scene.path("b.img")];
    await there.ctl("block", "dump", "data", a);
    await there.ctl("block", "dump", "data@night-4", b);
    await scene.run(["cmp", a, b]);
    writeFileSync(cut, readFileSync(stream(1)).subarray(0, statSync(stream(1)).size - 1));
    expect(await refused(there, cut, "fresh")).toContain("it ends too early");
    const volumes = await there.ctlJson<{ name: string }[]>("volume", "list");
    expect(volumes.map(({ name }) => name).sort()).toEqual(["data", "empty"]);
    await there.ctl("block", "import-diff", stream(ROUNDS), "data");
    await sameContents(`data@night-${ROUNDS}`);
  });

  scene.test("through a pipe, with another size, from a clone's parent: the copy is exact", async () => {
    await here.ctl("volume", "resize", "data", "160MiB");
    await here.ctl("block", "snapshot", "create", "data@larger");
    const torus = `"$TORUS" ctl block`;
    await here.shell(
      `${torus} export-diff --from night-${ROUNDS} data@larger - | ${torus} import-diff - data --meta ${there.metaFlags[1]}`,
    );
    await sameContents("data@larger");
    await here.ctl("block", "clone", "data@larger", "clone");
    await here.ctl("block", "snapshot", "create", "clone@s");
    await here.ctl("block", "export-diff", "--from", "data@larger", "clone@s", scene.path("clone.diff"));
    await there.ctl("block", "import-diff", scene.path("clone.diff"), "data", "--snapshot", "of-clone");
    await sameContents("data@larger");
  });
});
