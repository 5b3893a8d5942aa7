/**
 * Access lists from end to end: clients' certificates that may use one volume and not another's. The peers refuse
 * what a client asks of blocks, whoever keeps the metadata; a daemon that keeps it refuses changes of records too.
 */
import { statSync } from "node:fs";
import { beforeAll, describe, expect } from "bun:test";
import {
  type CertificateFiles,
  Cluster,
  certificateFactory,
  certificateFlags,
  fioCommand,
  type NbdServer,
  openScene,
  qemuIo,
  waitFor,
} from "./harness";

const NOT_NAMED = "access list does not name";

for (const scheme of ["adp", "http"] as const)
  describe(`peers over ${scheme}:// with access lists`, () => {
    const scene = openScene(`access-${scheme}`);
    let cluster: Cluster;
    let alice: CertificateFiles;
    let bob: CertificateFiles;

    beforeAll(async () => {
      const issue = await certificateFactory(scene);
      [alice, bob] = [await issue("alice", "client"), await issue("bob", "client")];
      const tls = { daemon: await issue("peer", "peer"), admin: await issue("boss", "admin") };
      cluster = await Cluster.withEtcd(scene, { peerCount: 2, scheme, replication: 2, size: "1GiB", tls });
      await cluster.createVolume("hers", "128MiB");
      await cluster.createVolume("his", "128MiB");
      await cluster.ctl("volume", "access", "his", "--allow", "bob");
    }, 180_000);

    /** A client that cannot serve what it asks for, and what it says. */
    const refusedTo = async (files: CertificateFiles, volume: string) => {
      const { exitCode, stderr } = await cluster.attempt(
        [
          ...["blk", "nbdserve", volume, "--listen", `unix:${scene.path("refused.sock")}`],
          ...["--meta", cluster.etcd!.metaUrl, ...certificateFlags(files)],
        ],
        { timeMsMax: 60_000 },
      );
      expect(exitCode).not.toBe(0);
      return stderr;
    };
    const refusals = () =>
      cluster.daemons.flatMap((daemon) =>
        daemon
          .output()
          .split("\n")
          .filter((line) => line.includes("Refused the certificate")),
      );
    const serveAs = (name: string, files: CertificateFiles, volume: string): Promise<NbdServer> =>
      cluster.serve(name, [volume], { certificate: files });

    scene.test("a client on another's volume is refused and logged once; others are unharmed", async () => {
      const server = await serveAs("alice", alice, "hers");
      const load = await scene.start(
        "fio",
        fioCommand(server.uri("hers"), "load", {
          ...{ rw: "randwrite", bs: "4k", size: "32m", iodepth: 4, loops: 1_000, runtime: 600 },
          ...{ verify: "crc32c", verify_fatal: 1 },
        }),
      );
      expect(await refusedTo(alice, "his")).toContain(`Cannot open volume "his": peer `);
      for (let count = 0; count < 3; count++) expect(await refusedTo(alice, "his")).toContain(NOT_NAMED);
      const lines = refusals();
      expect(lines.length).toBeGreaterThan(0);
      for (const line of lines)
        expect(line).toContain(
          'Refused the certificate "alice" volume "his": its access list does not name it',
        );
      // Each peer says it once in ten seconds, however often she tries.
      expect(lines.length).toBeLessThan(10);
      // His own volume is free for him at once, and as he left it.
      const his = await serveAs("bob", bob, "his");
      await qemuIo(scene, his.uri("his"), ["write -P 0x61 0 1M", "flush", "read -P 0x61 0 1M"]);
      expect(await his.stop()).toBe(0);
      expect(load.running).toBe(true);
      expect(await load.end("SIGINT")).not.toBeNull();
      expect(load.output()).not.toMatch(/verify:|error=|io_u error/);
      expect(await server.stop()).toBe(0);
    });

    scene.test("a client taken from the list while it works loses the volume, and nobody else", async () => {
      const his = await serveAs("bob-at-work", bob, "his");
      await qemuIo(scene, his.uri("his"), ["write -P 0x62 0 64k", "flush"]);
      await cluster.ctl("volume", "access", "his", "--deny", "bob");
      await waitFor("his writes to fail", async () => {
        const tried = await scene.attempt([
          ...["qemu-io", "-f", "raw", "-c", "write -P 0x63 64k 64k", "-c", "flush", his.uri("his")],
        ]);
        return tried.exitCode !== 0 || /error/i.test(tried.stdout + tried.stderr);
      });
      await his.stop();
      expect(await cluster.ctl("volume", "access", "his")).toContain("peers and administrators only");
      // An administrator's certificate is on no list.
      const server = await cluster.serve("boss", ["his"]);
      await qemuIo(scene, server.uri("his"), ["read -P 0x62 0 64k"]);
      expect(await server.stop()).toBe(0);
    });

    scene.test("a clone has the list of its volume until it has its own", async () => {
      await cluster.ctl("volume", "access", "his", "--allow", "bob");
      await cluster.ctl("block", "snapshot", "create", "his@now");
      await cluster.ctl("block", "clone", "his@now", `copy-${scheme}`);
      expect(await refusedTo(alice, `copy-${scheme}`)).toContain(NOT_NAMED);
      const allowed = async () =>
        (await cluster.ctlJson<{ allowedClients: string[] }>("volume", "info", `copy-${scheme}`))
          .allowedClients;
      expect(await allowed()).toEqual(["bob"]);
      expect(await cluster.ctl("volume", "access", `copy-${scheme}`)).toContain("may be used by bob");
      await cluster.ctl("volume", "access", `copy-${scheme}`, "--allow", "alice");
      expect(await allowed()).toEqual(["alice"]);
      const copy = await serveAs("alice-copy", alice, `copy-${scheme}`);
      // Half of it are his blocks, which she reads as the clone's.
      await qemuIo(scene, copy.uri(`copy-${scheme}`), [
        ...["read -P 0x62 0 64k", "write -P 0x64 0 4k", "flush", "read -P 0x64 0 4k"],
      ]);
      expect(await copy.stop()).toBe(0);
      expect(await refusedTo(alice, "his")).toContain(NOT_NAMED);
      expect(await refusedTo(bob, `copy-${scheme}`)).toContain(NOT_NAMED);
    });
  });

describe("a daemon that keeps the metadata, with access lists", () => {
  const scene = openScene("access-metadata");
  let cluster: Cluster;
  let alice: CertificateFiles;
  let bob: CertificateFiles;

  beforeAll(async () => {
    const issue = await certificateFactory(scene);
    [alice, bob] = [await issue("alice", "client"), await issue("bob", "client")];
    const tls = { daemon: await issue("peer", "peer"), admin: await issue("boss", "admin") };
    cluster = await Cluster.embedded(scene, { size: "1GiB", tls });
    await cluster.createVolume("his", "128MiB");
    await cluster.ctl("volume", "access", "his", "--allow", "bob,carol");
  }, 120_000);

  const as = (files: CertificateFiles, ...args: string[]) =>
    cluster.attempt([...args, "--meta", cluster.daemons[0]!.adminUrl, ...certificateFlags(files)]);

  scene.test("nobody else on the machine reads a daemon's data", () => {
    const { mode } = statSync(cluster.daemons[0]!.dataFolder);
    expect(mode & 0o777).toBe(0o700);
    return Promise.resolve();
  });

  scene.test("a client changes nothing of another's volume", async () => {
    const refused = 'Cannot use volume "his" with the certificate "alice" of role client';
    for (const args of [
      ["ctl", "volume", "delete", "his"],
      ["ctl", "volume", "rename", "his", "mine"],
      ["ctl", "volume", "resize", "his", "1GiB"],
      ["ctl", "block", "snapshot", "create", "his@mine"],
      ["ctl", "block", "dump", "his", scene.path("stolen")],
      ["blk", "nbdserve", "his", "--listen", `unix:${scene.path("refused.sock")}`],
    ]) {
      const { exitCode, stderr } = await as(alice, ...args);
      expect([args.join(" "), exitCode !== 0, stderr]).toEqual([
        args.join(" "),
        true,
        expect.stringContaining(refused),
      ]);
    }
    const list = await as(alice, "ctl", "volume", "access", "his", "--allow", "alice");
    expect(list.stderr).toContain("Cannot change access lists");
    expect((await as(alice, "ctl", "volume", "create-block", "mine", "64MiB")).exitCode).toBe(0);
    expect((await as(bob, "ctl", "volume", "resize", "his", "256MiB")).exitCode).toBe(0);
    expect(JSON.parse((await as(bob, "ctl", "volume", "access", "his", "--json")).stdout)).toEqual({
      name: "his",
      clients: ["bob", "carol"],
    });
    await waitFor("the refusal to be logged", () =>
      cluster.daemons[0]!.output().includes(
        'A certificate of role client, "alice", tried to use volume "his"',
      ),
    );
  });
});
