/**
 * What a server of all volumes shows its clients: volumes and snapshots with their sizes, snapshots read-only and
 * unchanging, a new size to whoever connects anew, holes as holes, one coherent view over many connections.
 */
import { beforeAll, describe, expect } from "bun:test";
import {
  Cluster,
  freePort,
  nbdinfo,
  nbdlist,
  type NbdServer,
  nbdsh,
  openScene,
  qemuIo,
  tcpUri,
  unixUri,
  waitFor,
} from "./harness";

const MEBIBYTE = 1024 * 1024;

describe("NBD exports", () => {
  const scene = openScene("nbd-exports");
  let cluster: Cluster;
  let port: number;
  let all: NbdServer;
  const uri = (name: string) => tcpUri(port, name);

  beforeAll(async () => {
    cluster = await Cluster.embedded(scene, { size: "1GiB" });
    await cluster.createVolume("data", "64MiB");
    await cluster.createVolume("logs", "32MiB");
    port = await freePort();
    all = await cluster.serve("all", [], { tcpPort: port });
    await waitFor("the server to list", async () => (await nbdlist(scene, uri(""))).length === 2);
  }, 120_000);

  scene.test("snapshots are exports: read-only, and the volume as it was", async () => {
    await qemuIo(scene, uri("data"), ["write -P 1 0 65536", "flush"]);
    await cluster.ctl("block", "snapshot", "create", "data@monday");
    await qemuIo(scene, uri("data"), ["write -P 2 0 65536", "flush"]);
    expect(await nbdlist(scene, uri(""))).toEqual(["data", "data@monday", "logs"]);
    const info = await nbdinfo(scene, uri("data@monday"));
    expect(info).toMatchObject({ is_read_only: true, "export-size": 64 * MEBIBYTE });
    await qemuIo(scene, uri("data"), ["read -P 2 0 65536"]);
    const read = await nbdsh(scene, uri("data@monday"), "print(h.pread(65536, 0) == b'\\x01' * 65536)");
    expect(read.trim()).toBe("True");
    const script = `
try:
    h.set_strict_mode(0)
    h.pwrite(b'x' * 512, 0)
    print("written")
except nbd.Error as error:
    print(error.errno)
`;
    expect(await nbdsh(scene, uri("data@monday"), script)).toContain("EPERM");
  });

  scene.test("the list tells sizes and descriptions, and opens nothing", async () => {
    const { stdout } = await scene.run(["nbdinfo", "--list", "--json", uri("")]);
    const { exports } = JSON.parse(stdout) as { exports: Record<string, unknown>[] };
    const told = exports.map((one) => [
      one["export-name"],
      one["export-size"],
      one.is_read_only,
      one.description,
    ]);
    expect(told).toEqual([
      ["data", 64 * MEBIBYTE, false, expect.any(String)],
      ["data@monday", 64 * MEBIBYTE, true, expect.any(String)],
      ["logs", 32 * MEBIBYTE, false, expect.any(String)],
    ]);
    for (const [, , , description] of told) expect(description).not.toBe("");
  });

  scene.test("TCP and a unix socket show one volume", async () => {
    await qemuIo(scene, uri("data"), ["write -P 5 1M 65536"]);
    await qemuIo(scene, unixUri(all.socketPath, "data"), ["read -P 5 1M 65536", "write -P 6 1M 4096"]);
    await qemuIo(scene, uri("data"), ["read -P 6 1M 4096", "discard 1M 65536"]);
  });

  scene.test("nbd-client -l lists the same", async () => {
    const { stdout } = await scene.run(["nbd-client", "-l", "127.0.0.1", String(port)]);
    for (const name of await nbdlist(scene, uri(""))) expect(stdout).toContain(name);
  });

  scene.test("a client that connects anew sees the new size, one that stays is not disturbed", async () => {
    const script = `
import subprocess, os
h.pwrite(b'a' * 4096, 0)
subprocess.run([${[await cluster.binary(), "ctl", "volume", "resize", "logs", "48MiB", ...cluster.metaFlags]
      .map((word) => JSON.stringify(word))
      .join(", ")}], check=True, stdout=subprocess.DEVNULL)
assert h.pread(4096, 0) == b'a' * 4096
one = nbd.NBD()
one.connect_uri(${JSON.stringify(uri("logs"))})
one.pwrite(b'b' * 4096, ${40 * MEBIBYTE})
print(h.get_size(), one.get_size(), one.pread(4096, ${40 * MEBIBYTE}) == b'b' * 4096)
`;
    expect((await nbdsh(scene, uri("logs"), script)).trim()).toBe(`${32 * MEBIBYTE} ${48 * MEBIBYTE} True`);
  });

  scene.test("holes are told as holes, before and after a trim", async () => {
    const map = async () => {
      const { stdout } = await scene.run(["nbdinfo", "--map", "--json", uri("logs")]);
      return (JSON.parse(stdout) as { offset: number; length: number; type: number }[]).map(
        ({ offset, length, type }) => `${offset / 4096}+${length / 4096}:${type}`,
      );
    };
    await qemuIo(scene, uri("logs"), ["discard 0 48M", "write -P 7 1M 128k", "flush"]);
    expect(await map()).toEqual(["0+256:3", "256+32:0", `288+${(48 * MEBIBYTE) / 4096 - 288}:3`]);
    await qemuIo(scene, uri("logs"), ["discard 1M 64k", "flush"]);
    expect(await map()).toEqual(["0+272:3", "272+16:0", `288+${(48 * MEBIBYTE) / 4096 - 288}:3`]);
  });

  scene.test("48 connections see each other's writes at once", async () => {
    const script = `
more = []
for i in range(48):
    one = nbd.NBD()
    one.connect_uri(${JSON.stringify(uri("data"))})
    more.append(one)
for round in range(5):
    for i, one in enumerate(more):
        block = bytes([(i + round * 50) % 256]) * 4096
        one.pwrite(block, 0)
        assert more[(i * 7 + 3) % 48].pread(4096, 0) == block
print("coherent")
`;
    expect((await nbdsh(scene, uri("data"), script)).trim()).toBe("coherent");
  });
});
