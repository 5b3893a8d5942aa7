/**
 * What the NBD server of the executable keeps up against clients that installed tools are not: requests of more than
 * 4 GiB by extended headers, with TLS and without, a client that takes no answers, one that never ends its handshake,
 * one that goes quiet.
 */
import { beforeAll, describe, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { NbdConnection } from "../support/nbd-connection";
import { request } from "../support/nbd-wire";
import {
  Cluster,
  freePort,
  makeNbdCertificates,
  type NbdServer,
  nbdServerFlags,
  nbdsh,
  openScene,
  tcpUri,
  waitFor,
} from "./harness";

const MEBIBYTE = 1024 * 1024;
const GIBIBYTE = 1024 * MEBIBYTE;
const Command = { read: 0, write: 1, trim: 4, cache: 5, writeZeroes: 6, blockStatus: 7 } as const;
const Flag = { fastZero: 16, payloadLength: 32 } as const;
const DATA_BYTES = 128 * MEBIBYTE;

describe("NBD at its bounds", () => {
  const scene = openScene("nbd-limits");
  let cluster: Cluster;
  /** With the usual limits, and TLS for those who ask. */
  let usualPort: number;
  let strictPort: number;
  let strict: NbdServer;
  let certificates: { readonly certFile: string; readonly keyFile: string; readonly caFile: string };

  beforeAll(async () => {
    const server = await makeNbdCertificates(scene, "authority", "server");
    const folder = await makeNbdCertificates(scene, "authority", "client");
    certificates = {
      certFile: `${folder}/client-cert.pem`,
      keyFile: `${folder}/client-key.pem`,
      caFile: `${folder}/ca-cert.pem`,
    };
    cluster = await Cluster.embedded(scene, { size: "1GiB" });
    await cluster.createVolume("large", "16GiB");
    await cluster.createVolume("data", "160MiB");
    [usualPort, strictPort] = [await freePort(), await freePort()];
    await cluster.serve("usual", ["large"], { tcpPort: usualPort, flags: nbdServerFlags(server) });
    strict = await cluster.serve("strict", ["data"], {
      tcpPort: strictPort,
      flags: [
        ...["--client-memory", "4MiB", "--handshake-timeout", "3s"],
        ...["--request-timeout", "3s", "--idle-timeout", "6s"],
      ],
    });
  }, 120_000);

  async function connect(port: number, exportName: string, secured = false): Promise<NbdConnection> {
    const connection = await NbdConnection.open(port);
    connection.greet();
    if (secured) await connection.startTls(certificates);
    await connection.goExtended(exportName);
    return connection;
  }

  /** Extents of a block status answer, as `GiB+GiB:flags`. */
  async function map(connection: NbdConnection, lengthBytes: number): Promise<string[]> {
    const [chunk] = await connection.ask({ command: Command.blockStatus, offset: 0, length: lengthBytes });
    expect([chunk?.kind, chunk?.type]).toEqual(["extended", 6]);
    const view = new DataView(chunk!.payload.buffer, chunk!.payload.byteOffset, chunk!.payload.byteLength);
    const extents = [];
    let at = 0;
    for (let entry = 0; entry < view.getUint32(4); entry++) {
      const length = Number(view.getBigUint64(8 + 16 * entry));
      extents.push(`${at / 4096}+${length / 4096}:${view.getBigUint64(16 + 16 * entry)}`);
      at += length;
    }
    return extents;
  }

  for (const secured of [false, true])
    scene.test(`one request of more than 4 GiB, ${secured ? "through TLS" : "without TLS"}`, async () => {
      const connection = await connect(usualPort, "large", secured);
      const payload = new Uint8Array(8192).fill(0x5a);
      const at = 10 * GIBIBYTE;
      const write = { command: Command.write, flags: Flag.payloadLength, offset: at, payload };
      expect((await connection.ask(write)).at(-1)?.error).toBe(0);
      const pages = GIBIBYTE / 4096;
      expect(await map(connection, 12 * GIBIBYTE)).toEqual([
        `0+${10 * pages}:3`,
        `${10 * pages}+2:0`,
        `${10 * pages + 2}+${2 * pages - 2}:3`,
      ]);
      const read = await connection.ask({ command: Command.read, offset: at - 4096, length: 16_384 });
      const bytes = new Uint8Array(16_384);
      for (const chunk of read.filter(({ type }) => type === 1)) {
        const offset = new DataView(chunk.payload.buffer, chunk.payload.byteOffset).getBigUint64(0);
        bytes.set(chunk.payload.subarray(8), Number(offset) - (at - 4096));
      }
      expect(bytes.subarray(4096, 12_288).every((byte) => byte === 0x5a)).toBe(true);
      expect([...bytes.subarray(0, 4096), ...bytes.subarray(12_288)].every((byte) => byte === 0)).toBe(true);
      const cached = await connection.ask({
        command: Command.cache,
        offset: 5 * GIBIBYTE,
        length: 6 * GIBIBYTE,
      });
      expect(cached.at(-1)?.error).toBe(0);
      // One way to take it back without TLS, the other with it.
      const zero = secured
        ? { command: Command.trim, offset: 4 * GIBIBYTE, length: 9 * GIBIBYTE }
        : { command: Command.writeZeroes, flags: Flag.fastZero, offset: 0, length: 12 * GIBIBYTE };
      expect((await connection.ask(zero)).at(-1)?.error).toBe(0);
      expect(await map(connection, 16 * GIBIBYTE)).toEqual([`0+${16 * pages}:3`]);
      // Over the end: an error, and the connection goes on.
      const beyond = await connection.ask({
        command: Command.trim,
        offset: 8 * GIBIBYTE,
        length: 9 * GIBIBYTE,
      });
      expect(beyond.at(-1)?.error).toBe(22);
      expect(await map(connection, 4096)).toEqual(["0+1:3"]);
      connection.close();
    });

  function residentBytes(pid: number): number {
    return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) * 1024;
  }

  scene.test("a client that takes no answers holds little memory, and nobody else up", async () => {
    const script = `
for at in range(0, ${DATA_BYTES}, ${MEBIBYTE}):
    h.pwrite(bytes([at // ${MEBIBYTE} + 1]) * ${MEBIBYTE}, at)
for at in range(0, ${DATA_BYTES}, ${MEBIBYTE}):
    assert h.pread(${MEBIBYTE}, at) == bytes([at // ${MEBIBYTE} + 1]) * ${MEBIBYTE}
print("right")
`;
    // Also fills the caches and pools that every client uses.
    expect((await nbdsh(scene, tcpUri(strictPort, "data"), script)).trim()).toBe("right");
    const before = residentBytes(strict.pid);
    const greedy = await connect(strictPort, "data");
    greedy.pause();
    const read = { command: Command.read, length: MEBIBYTE };
    const count = DATA_BYTES / MEBIBYTE;
    for (let index = 0; index < count; index++)
      greedy.send(request({ ...read, cookie: BigInt(index), offset: index * MEBIBYTE }, true));
    expect((await nbdsh(scene, tcpUri(strictPort, "data"), script)).trim()).toBe("right");
    expect(residentBytes(strict.pid) - before).toBeLessThan(DATA_BYTES / 2);
    greedy.resume();
    const answered = new Set<bigint>();
    for (let index = 0; index < count; index++)
      for (const { cookie, error, payload, last } of await greedy.answer()) {
        expect(error).toBe(0);
        // Behind the offset; the last chunk may hold nothing.
        if (payload.length > 8) expect([cookie, payload[8]]).toEqual([cookie, Number(cookie) + 1]);
        if (last) answered.add(cookie);
      }
    expect(answered.size).toBe(count);
    greedy.close();
  });

  scene.test(
    "who ends neither handshake nor request in time, or asks nothing for long, is let go",
    async () => {
      const slow = await NbdConnection.open(strictPort);
      slow.greet();
      const half = await connect(strictPort, "data");
      half.send(request({ command: Command.read, length: 4096 }, true).subarray(0, 10));
      const quiet = await connect(strictPort, "data");
      const alsoQuiet = await connect(usualPort, "large");
      const busy = await connect(strictPort, "data");
      const pulse = setInterval(() => busy.send(request({ command: Command.read, length: 4096 }, true)), 200);
      await slow.untilClosed();
      await half.untilClosed();
      expect(quiet.closed).toBe(false);
      await quiet.untilClosed();
      clearInterval(pulse);
      expect([busy.closed, alsoQuiet.closed]).toEqual([false, false]);
      for (const connection of [busy, alsoQuiet]) connection.close();
    },
  );

  scene.test("the kernel watches whether clients over TCP are still there", async () => {
    const quiet = await connect(usualPort, "large");
    const established = ["ss", "-t", "-n", "-o", "state", "established", `sport = :${usualPort}`];
    await waitFor("the keepalive timer", async () =>
      (await scene.run(established)).stdout.includes("timer:(keepalive,"),
    );
    quiet.close();
  });
});
