/**
 * NBD with STARTTLS by real clients: libnbd's tools and QEMU's, with certificates of one authority. Bytes come through
 * whole, who has no trusted certificate gets nothing, and where TLS is required nothing is told without it.
 */
import { beforeAll, describe, expect } from "bun:test";
import { join } from "node:path";
import {
  Cluster,
  fio,
  freePort,
  makeNbdCertificates,
  nbdServerFlags,
  nbdcopy,
  nbdinfo,
  nbdlist,
  openScene,
  type Scene,
  torusBinary,
  unixUri,
  waitFor,
  writeRandomFile,
} from "./harness";

const MEBIBYTE = 1024 * 1024;
const COPIED_MEBIBYTES = 48;

/** A libnbd shell script in Python, with `connect()` for one more connection to the export. */
async function libnbd(scene: Scene, uri: string, script: string): Promise<string> {
  const preamble = `
import nbd
def connect():
    one = nbd.NBD()
    one.add_meta_context("base:allocation")
    one.set_uri_allow_local_file(True)
    one.connect_uri(${JSON.stringify(uri)})
    return one
h = connect()
`;
  const { stdout } = await scene.run(["/usr/bin/python3", "-c", `${preamble}${script}`]);
  return stdout.trim();
}

describe("NBD over TLS", () => {
  const scene = openScene("nbd-tls");
  let cluster: Cluster;
  let client: string;
  let stranger: string;
  /** Volume `open` may be had without TLS, `closed` only with it. */
  let openPort: number;
  let closedPort: number;

  const secured = (port: number, name: string, folder = client) =>
    `nbds://127.0.0.1:${port}/${name}?tls-certificates=${folder}`;

  beforeAll(async () => {
    const server = await makeNbdCertificates(scene, "authority", "server");
    client = await makeNbdCertificates(scene, "authority", "client");
    stranger = await makeNbdCertificates(scene, "other", "client");
    await scene.run(["cp", scene.path("authority.pem"), join(stranger, "ca-cert.pem")]);
    cluster = await Cluster.embedded(scene, { size: "1GiB" });
    for (const name of ["open", "closed"]) await cluster.createVolume(name, "64MiB");
    [openPort, closedPort] = [await freePort(), await freePort()];
    await cluster.serve("offered", ["open"], { tcpPort: openPort, flags: nbdServerFlags(server) });
    const command = [await torusBinary(), "blk", "nbdserve", "--listen", `127.0.0.1:${closedPort}`];
    await scene.start(
      "required",
      [...command, ...cluster.metaFlags, ...nbdServerFlags(server), "--tls-required", "closed"],
      { env: cluster.environment },
    );
    await waitFor("the server to serve", async () => {
      const { exitCode } = await scene.attempt(["nbdinfo", secured(closedPort, "closed")]);
      return exitCode === 0;
    });
  }, 120_000);

  scene.test("every feature is there through TLS as without it", async () => {
    const plain = await nbdinfo(scene, `nbd://127.0.0.1:${openPort}/open`);
    const inside = await nbdinfo(scene, secured(openPort, "open"));
    expect(inside["export-size"]).toBe(64 * MEBIBYTE);
    const { uri: _plain, ...features } = plain as unknown as Record<string, unknown>;
    const { uri: _inside, ...featuresInside } = inside as unknown as Record<string, unknown>;
    expect(featuresInside).toEqual(features);
    expect(await nbdlist(scene, secured(openPort, "open"))).toEqual(["open"]);
  });

  scene.test("bytes come through whole: in by TLS, out by TLS and without, over 4 connections", async () => {
    const source = scene.path("source");
    writeRandomFile(source, COPIED_MEBIBYTES);
    await nbdcopy(scene, source, secured(openPort, "open"), ["--flush"]);
    for (const uri of [secured(openPort, "open"), `nbd://127.0.0.1:${openPort}/open`]) {
      await nbdcopy(scene, uri, scene.path("back"));
      await scene.run(["cmp", "-n", String(COPIED_MEBIBYTES * MEBIBYTE), source, scene.path("back")]);
    }
  });

  scene.test("QEMU reads what libnbd wrote, and the other way round", async () => {
    const image = `driver=nbd,host=127.0.0.1,port=${closedPort},export=closed,tls-creds=tls0`;
    const credentials = `tls-creds-x509,id=tls0,dir=${client},endpoint=client`;
    await libnbd(scene, secured(closedPort, "closed"), "h.pwrite(b'x' * 70000, 12345); h.flush()");
    await scene.run([
      ...["qemu-io", "--object", credentials, "--image-opts", image],
      ...["-c", "read -P 0x78 12345 70000", "-c", "write -P 0x51 1000000 5000000", "-c", "flush"],
    ]);
    const read = await libnbd(
      scene,
      secured(closedPort, "closed"),
      "print(h.pread(5000000, 1000000) == b'Q' * 5000000)",
    );
    expect(read).toBe("True");
  });

  scene.test("every command and its errors, through TLS and without", async () => {
    const script = `
import errno
h.trim(h.get_size(), 0)
h.pwrite(b"x" * 700, 300, nbd.CMD_FLAG_FUA)
assert h.pread(3, 299) == b"\\0xx"
h.zero(500, 300, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
assert h.pread(2, 799) == b"\\0x"
h.zero(4096, 0, nbd.CMD_FLAG_FUA)
h.cache(100000, 0)
h.flush()
extents = []
h.pwrite(b"y" * 4096, 8192)
h.block_status(65536, 0, lambda context, offset, entries, error: extents.extend(entries))
assert extents == [8192, 3, 4096, 0, 53248, 3], extents
extents.clear()
h.block_status(65536, 0, lambda context, offset, entries, error: extents.extend(entries), nbd.CMD_FLAG_REQ_ONE)
assert extents == [8192, 3], extents
chunks = []
h.pwrite(b"z" * 3000000, 0)
def chunk(data, offset, status, error):
    chunks.append((offset, len(data)))
    return 0
assert h.pread_structured(3000000, 0, chunk) == b"z" * 3000000
assert sum(length for _, length in chunks) == 3000000
assert h.pread_structured(3000000, 0, lambda *arguments: 0, nbd.CMD_FLAG_DF) == b"z" * 3000000
def fails(expected, call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as error:
        assert error.errnum == expected, error
    else:
        assert False, "no error"
h.set_strict_mode(0)
size = h.get_size()
fails(errno.EINVAL, h.pread, 10, size - 1)
fails(errno.ENOSPC, h.pwrite, b"12", size - 1)
fails(errno.ENOSPC, h.zero, 2, size - 1)
fails(errno.EINVAL, h.trim, 2, size - 1)
fails(errno.EINVAL, h.cache, 2, size - 1)
h.shutdown()
print("done")
`;
    const plain = await libnbd(scene, `nbd://127.0.0.1:${openPort}/open`, script);
    expect([plain, await libnbd(scene, secured(openPort, "open"), script)]).toEqual(["done", "done"]);
  });

  scene.test("fio verifies what it wrote through TLS", async () => {
    // fio lets no URI name certificates; nbdkit's client does, and has as many requests under way as fio.
    const socket = scene.path("front.sock");
    const options = ["hostname=127.0.0.1", `port=${openPort}`, "export=open", "tls=require"];
    const command = ["nbdkit", "--foreground", "--unix", socket, "nbd", ...options];
    const front = await scene.start("front", [...command, `tls-certificates=${client}`]);
    const uri = unixUri(socket, "open");
    await waitFor("nbdkit to serve", async () => {
      if (!front.running) throw new Error(front.output());
      return (await nbdinfo(scene, uri))["export-size"] > 0;
    });
    const job = { rw: "randwrite", bs: "4k", size: "16m", iodepth: 8, verify: "crc32c" };
    await fio(scene, uri, "verify", job);
    await front.stop();
  });

  scene.test("where TLS is required nothing is told without it", async () => {
    const plain = await scene.attempt(["nbdinfo", `nbd://127.0.0.1:${closedPort}/closed`]);
    expect(plain.exitCode).not.toBe(0);
    expect(plain.stdout).not.toContain("export-size");
    const listed = await scene.attempt(["nbdinfo", "--list", `nbd://127.0.0.1:${closedPort}`]);
    expect(`${listed.stdout}`).not.toContain("closed");
  });

  scene.test("who has a certificate of somebody else, or none, gets nothing", async () => {
    for (const port of [openPort, closedPort]) {
      const name = port === openPort ? "open" : "closed";
      const refused = await scene.attempt(["nbdinfo", secured(port, name, stranger)]);
      expect(refused.exitCode).not.toBe(0);
      expect(refused.stdout).not.toContain("export-size");
    }
    expect((await nbdinfo(scene, secured(openPort, "open")))["export-size"]).toBe(64 * MEBIBYTE);
  });

  scene.test("bytes sent behind STARTTLS before its answer end the connection", async () => {
    const answered = Promise.withResolvers<string>();
    const received: Buffer[] = [];
    const socket = await Bun.connect({
      hostname: "127.0.0.1",
      port: openPort,
      socket: {
        data: (_socket, data) => {
          received.push(Buffer.from(data));
        },
        close: () => answered.resolve(Buffer.concat(received).toString("latin1")),
      },
    });
    const startTls = Buffer.from("0000000349484156454f50540000000500000000", "hex");
    const list = Buffer.from("49484156454f50540000000300000000", "hex");
    socket.write(Buffer.concat([startTls, list]));
    expect(await answered.promise).toHaveLength(18);
  });

  scene.test("30 connections through TLS see one volume", async () => {
    const script = `
more = [connect() for i in range(30)]
for i, one in enumerate(more):
    one.pwrite(bytes([i + 1]) * 4096, i * 4096)
print(all(one.pread(4096, i * 4096) == bytes([i + 1]) * 4096 for one in more for i in range(30)))
`;
    expect(await libnbd(scene, secured(openPort, "open"), script)).toBe("True");
  });
});
