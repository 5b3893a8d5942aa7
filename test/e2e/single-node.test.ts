/** One machine and no etcd: from nothing to a disk that real clients use, by the executable's defaults. */
import { beforeAll, describe, expect } from "bun:test";
import { existsSync } from "node:fs";
import {
  Cluster,
  type NbdServer,
  nbdcopy,
  nbdinfo,
  nbdlist,
  openScene,
  qemuIo,
  torusBinary,
  unixUri,
  waitFor,
} from "./harness";
import { declareClientSuite } from "./harness/client-suite";

const GIBIBYTE = 1024 ** 3;

describe("a daemon without any flag", () => {
  const scene = openScene("defaults", { ownNetwork: true });
  const env = { TORUS_CONFIG_DIR: scene.path("config") };

  scene.test("is initialised and joined, and the next line makes a volume that is served", async () => {
    const torus = await torusBinary();
    const daemon = await scene.start("daemon", [torus, "daemon"], { env });
    await waitFor("the daemon to answer", async () => {
      if (!daemon.running) throw new Error(daemon.output());
      return (await scene.attempt([torus, "ctl", "status"], { env })).exitCode === 0;
    });
    expect(existsSync(scene.path("torus-data"))).toBe(true);
    await scene.run([torus, "ctl", "volume", "create-block", "first", "1GiB"], { env });
    const socket = scene.path("first.sock");
    await scene.start("blk", [torus, "blk", "nbdserve", "--listen", `unix:${socket}`, "first"], { env });
    await waitFor("the volume to be served", async () => {
      return existsSync(socket) && (await nbdlist(scene, unixUri(socket, "first"))).includes("first");
    });
    expect((await nbdinfo(scene, unixUri(socket, "first")))["export-size"]).toBe(GIBIBYTE);
    await qemuIo(scene, unixUri(socket, "first"), ["write -P 0x2a 1M 64k", "flush", "read -P 0x2a 1M 64k"]);
    expect(await daemon.stop()).toBe(0);
  });
});

describe("a daemon that is told host names", () => {
  const scene = openScene("host-names", { ownNetwork: true });
  const env = { TORUS_CONFIG_DIR: scene.path("config") };

  scene.test("listens where they lead, for peers and for NBD, and so does blk", async () => {
    const torus = await torusBinary();
    const places = ["--peer-address", "adp://localhost:0", "--nbd", "localhost:10809", "--size", "256MiB"];
    const daemon = await scene.start("daemon", [torus, "daemon", ...places], { env });
    await waitFor("the daemon to be ready", async () => {
      if (!daemon.running) throw new Error(daemon.output());
      return daemon.output().includes("Ready");
    });
    for (const name of ["one", "two"])
      await scene.run([torus, "ctl", "volume", "create-block", name, "64MiB"], { env });
    await qemuIo(scene, "nbd://127.0.0.1:10809/one", ["write -P 0x2a 1M 64k", "flush"]);
    const blk = await scene.start("blk", [torus, "blk", "nbdserve", "--listen", "localhost:10810", "two"], {
      env,
    });
    await waitFor("the volume to be served", async () => {
      if (!blk.running) throw new Error(blk.output());
      return blk.output().includes("Serving");
    });
    await qemuIo(scene, "nbd://127.0.0.1:10810/two", [
      "write -P 0x2b 1M 64k",
      "flush",
      "read -P 0x2b 1M 64k",
    ]);
    expect(await blk.stop()).toBe(0);
    expect(await daemon.stop()).toBe(0);
  });
});

describe("a volume served by blk nbdserve", () => {
  const scene = openScene("single");
  let cluster: Cluster;
  let server: NbdServer;

  beforeAll(async () => {
    cluster = await Cluster.embedded(scene, { size: "4GiB" });
    await cluster.createVolume("disk", "1GiB");
    server = await cluster.serve("blk", ["disk"]);
  }, 120_000);

  declareClientSuite(scene, () => ({ uri: server.uri("disk"), sizeBytes: GIBIBYTE }));

  scene.test("holds what it held after a clean stop of everything", async () => {
    await qemuIo(scene, server.uri("disk"), ["write -P 0x3c 12345678 54321", "flush"]);
    const before = scene.path("before.img");
    const after = scene.path("after.img");
    await nbdcopy(scene, server.uri("disk"), before);
    expect(await server.stop()).toBe(0);
    expect(await cluster.daemons[0]!.stop()).toBe(0);
    await cluster.daemons[0]!.start();
    await server.start();
    await nbdcopy(scene, server.uri("disk"), after);
    await scene.run(["cmp", before, after]);
  });
});

describe("volumes exported by the daemon itself", () => {
  const scene = openScene("export");

  scene.test("several volumes and clients at once do not meet", async () => {
    const socket = scene.path("export.sock");
    const cluster = await Cluster.embedded(scene, { daemonFlags: ["--nbd", `unix:${socket}`] });
    const names = ["alpha", "beta", "gamma"];
    for (const name of names) await cluster.createVolume(name, "256MiB");
    await waitFor("all volumes to be exported", async () => {
      const exported = await nbdlist(scene, unixUri(socket, "alpha"));
      return names.every((name) => exported.includes(name));
    });
    const jobs = names.map((name, index) => {
      const uri = unixUri(socket, name);
      return qemuIo(scene, uri, [`write -P ${index + 1} 0 32M`, "flush", `read -P ${index + 1} 0 32M`]);
    });
    await Promise.all(jobs);
    for (const [index, name] of names.entries())
      await qemuIo(scene, unixUri(socket, name), [`read -P ${index + 1} 0 32M`, "read -P 0 32M 1M"]);
    expect(await cluster.daemons[0]!.stop()).toBe(0);
  });
});
