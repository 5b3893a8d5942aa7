import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect as connectPlain, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ClusterId, Incarnation, PeerId } from "../../../../src/base";
import {
  nativeBuffer,
  type StreamConnection,
  type StreamNetwork,
  systemRandom,
} from "../../../../src/base/io";
import { HEADER_BYTES_MAX } from "../../../../src/engine/block";
import { AdpClient, AdpServer } from "../../../../src/net/adp";
import {
  loadTlsIdentity,
  TlsDialer,
  TlsError,
  type TlsFiles,
  TlsGate,
  TlsNetwork,
} from "../../../../src/net/tls";
import { makeAuthority, makeCertificate } from "../../../support/authority";
import { until, withLoop } from "../../../support/loop";
import { MemoryService } from "../../../support/memory-service";
import { streamContract } from "../../base/io/stream.contract";

const folder = mkdtempSync(join(tmpdir(), "torus-tls-"));
afterAll(() => rmSync(folder, { recursive: true }));
makeAuthority(folder, "ca");
makeAuthority(folder, "other");
const server = makeCertificate(folder, "ca", "server", { organization: "peers" });
const renewed = makeCertificate(folder, "ca", "renewed");
const client = makeCertificate(folder, "ca", "client", { organization: "clients" });
const elsewhere = makeCertificate(folder, "ca", "elsewhere", { alternativeNames: "IP:10.9.8.7" });
const stranger = { ...makeCertificate(folder, "other", "stranger"), caFile: server.caFile };

const identityOf = (files: TlsFiles) => loadTlsIdentity(files, Date.now());

async function errorOf(promise: Promise<unknown>): Promise<TlsError> {
  try {
    await promise;
  } catch (error) {
    expect(error).toBeInstanceOf(TlsError);
    return error as TlsError;
  }
  throw new Error("it did not fail");
}

const blockBytesMax = HEADER_BYTES_MAX + 65536;
const identity = {
  clusterId: "0f0e0d0c-0b0a-4900-8807-060504030201" as ClusterId,
  peerId: "11111111-2222-4333-8444-000000000001" as PeerId,
  incarnation: "00000000000000a1" as Incarnation,
};

streamContract(
  "tls",
  () => "127.0.0.1:0",
  (body) =>
    withLoop(async (loop, sockets) => {
      const serverIdentity = await identityOf(server);
      const dialer = new TlsDialer(await identityOf(client));
      const dialled = new TlsNetwork(sockets, (address, timeoutMs) => dialer.dial(address, timeoutMs));
      const network: StreamNetwork = {
        listen: (address, accept) => {
          const gate = new TlsGate({
            address: address.replace("tls:", ""),
            identity: serverIdentity,
            onClient: ({ socket, remote }) => sockets.adopt(socket, remote, accept),
            onRefused: (_remote, reason) => expect(reason).toBe("nothing"),
          });
          return { address: `tls:${gate.address}`, close: () => gate.close() };
        },
        connect: (...call) => dialled.connect(...call),
      };
      await body({
        network,
        clock: loop,
        random: systemRandom,
        endsPaused: true,
        until: (what, condition) => until(loop, what, condition),
      });
    }),
);

test(
  "bytes pass both ways through a TLS gate and dialer, whatever their number, and the end is told",
  () =>
    withLoop(async (loop, network) => {
      const clients: string[] = [];
      let far: StreamConnection | undefined;
      const gate = new TlsGate({
        address: "127.0.0.1:0",
        identity: await identityOf(server),
        onClient: ({ socket, commonName, organization, remote }) => {
          clients.push(`${organization}/${commonName}`);
          network.adopt(socket, remote, (connection) => {
            far = connection;
            return {
              // An echo.
              onData: (buffer, start, end) => {
                connection.write(buffer.bytes, start, end);
                return end - start;
              },
              onReceived: () => {},
              onClose: () => {
                far = undefined;
              },
            };
          });
        },
        onRefused: (_remote, reason) => expect(reason).toBe("nothing"),
      });
      const dialer = new TlsDialer(await identityOf(client));
      const tls = new TlsNetwork(network, (address, timeoutMs) => dialer.dial(address, timeoutMs));
      const sent = nativeBuffer(6_000_000);
      crypto.getRandomValues(sent.bytes.subarray(0, 65536));
      sent.bytes.copyWithin(65536, 0, 5_934_464);
      const received = nativeBuffer(6_000_000);
      let whole = false;
      let near: StreamConnection | undefined;
      tls.connect(
        `tls:${gate.address}`,
        2000,
        (connection) => {
          near = connection;
          connection.receiveInto(received, 0, 6_000_000);
          connection.writeLent(sent, 0, 6_000_000);
          return {
            onData: (_buffer, start, end) => end - start,
            onReceived: () => {
              whole = true;
            },
            onClose: () => {},
          };
        },
        (reason) => expect(reason).toBe("nothing"),
      );
      await until(loop, "all came back", () => whole, 15_000);
      expect(Bun.hash.crc32(received.bytes)).toBe(Bun.hash.crc32(sent.bytes));
      expect(clients).toEqual(["clients/client"]);
      expect(gate.connectionCount).toBe(1);
      near?.end();
      await until(loop, "the other side saw the end", () => far === undefined && gate.connectionCount === 0);
      gate.close();
    }),
  20_000,
);

test(
  "adp runs over TLS, and goes on with the old connection while a new certificate is taken",
  () =>
    withLoop(async (loop, network) => {
      const adpServer = new AdpServer({
        service: new MemoryService(identity, nativeBuffer),
        network,
        clock: loop,
        allocate: nativeBuffer,
        blockBytesMax,
        onServiceError: (error) => expect(error).toBeNull(),
      });
      const gate = new TlsGate({
        address: "127.0.0.1:0",
        identity: await identityOf(server),
        onClient: ({ socket, remote }) =>
          network.adopt(socket, remote, (connection) => adpServer.accept(connection)),
        onRefused: (_remote, reason) => expect(reason).toBe("nothing"),
      });
      const dialer = new TlsDialer(await identityOf(client));
      const makeClient = () =>
        new AdpClient({
          network: new TlsNetwork(network, (address, timeoutMs) => dialer.dial(address, timeoutMs)),
          clock: loop,
          turns: loop,
          random: systemRandom,
          allocate: nativeBuffer,
          clusterId: identity.clusterId,
          blockBytesMax,
          locate: () => `tls:${gate.address}`,
          requestTimeoutMs: 3000,
          controlTimeoutMs: 3000,
          connectTimeoutMs: 3000,
        });
      const first = makeClient();
      expect((await first.statistics(identity.peerId)).incarnation).toBe(identity.incarnation);
      gate.renew(await identityOf(renewed));
      const second = makeClient();
      expect((await second.statistics(identity.peerId)).peerId).toBe(identity.peerId);
      expect((await first.statistics(identity.peerId)).peerId).toBe(identity.peerId);
      expect([first.peerStatistics[0]?.connectCount, second.peerStatistics[0]?.connectCount]).toEqual([1, 1]);
      first.close();
      second.close();
      adpServer.close();
      gate.close();
    }),
  15_000,
);

async function withGate(
  files: TlsFiles,
  body: (gate: TlsGate, refused: string[], clients: number[]) => Promise<void>,
): Promise<void> {
  const refused: string[] = [];
  const clients: number[] = [];
  const gate = new TlsGate({
    address: "127.0.0.1:0",
    identity: await identityOf(files),
    onClient: ({ socket }) => clients.push(socket),
    onRefused: (_remote, reason) => refused.push(reason),
  });
  try {
    await body(gate, refused, clients);
  } finally {
    gate.close();
  }
}

async function eventually(what: string, holds: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + 8000;
  while (!holds()) {
    if (performance.now() > deadlineMs) throw new Error(`never happened: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

test(
  "TlsGate lets nobody in without a certificate of its authority",
  () =>
    withGate(server, async (gate, refused, clients) => {
      const trusting = await identityOf(stranger);
      // The runtime ends the client's side of a TLS 1.3 handshake before the server has looked at the certificate.
      await new TlsDialer(trusting).dial(gate.address, 2000).catch((error: unknown) => error);
      await eventually("a stranger was refused", () => refused.length === 1);
      const port = Number(gate.address.split(":")[1]);
      const anonymous = await Bun.connect({
        hostname: "127.0.0.1",
        port,
        tls: { ca: trusting.ca, rejectUnauthorized: true },
        socket: { data: () => {}, error: () => {} },
      });
      await eventually("an anonymous client was refused", () => refused.length === 2);
      anonymous.terminate();
      const plain: Socket = connectPlain(port, "127.0.0.1", () => plain.write("GET / HTTP/1.1\r\n\r\n"));
      plain.on("error", () => {});
      await eventually("plain text was refused", () => refused.length === 3);
      plain.destroy();
      expect(clients).toEqual([]);
      expect(gate.connectionCount).toBe(0);
    }),
  20_000,
);

test(
  "a flood of half-open connections is bounded, and a client still gets in afterwards",
  () =>
    withGate(server, async (gate, refused, clients) => {
      const port = Number(gate.address.split(":")[1]);
      const flood = Array.from({ length: 300 }, () => {
        const socket = connectPlain(port, "127.0.0.1");
        socket.on("error", () => {});
        return socket;
      });
      await eventually("some were refused", () => refused.includes("too many handshakes are under way"));
      for (const socket of flood) socket.destroy();
      const dialer = new TlsDialer(await identityOf(client));
      await eventuallyDial(dialer, gate.address);
      await eventually("a client got in", () => clients.length > 0);
    }),
  20_000,
);

async function eventuallyDial(dialer: TlsDialer, address: string): Promise<void> {
  for (let attempt = 0; attempt < 20; attempt++) {
    const result = await dialer.dial(address, 2000).catch((error: unknown) => error);
    if (typeof result === "number") return;
  }
  throw new Error("no attempt succeeded");
}

test("TlsDialer refuses a server of another authority, of another host, and one that keeps silent", async () => {
  const dialer = new TlsDialer(await identityOf(client));
  await withGate(elsewhere, async (gate) => {
    const error = await errorOf(dialer.dial(gate.address, 3000));
    expect([error.code, error.retryable]).toEqual(["connect-failed", true]);
    expect(error.message).toStartWith(`Cannot connect to ${gate.address} with TLS: `);
    expect(error.message).toContain("127.0.0.1");
  });
  await withGate({ ...stranger, caFile: join(folder, "other.pem") }, async (gate) => {
    const error = await errorOf(dialer.dial(gate.address, 3000));
    expect(error.message).toMatch(/certificate/);
  });
  const silent = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => {} } });
  const error = await errorOf(dialer.dial(`127.0.0.1:${silent.port}`, 100));
  expect(error.message).toBe(`Cannot connect to 127.0.0.1:${silent.port} with TLS: no answer in 100 ms`);
  silent.stop(true);
  const gone = await errorOf(dialer.dial(`127.0.0.1:${silent.port}`, 3000));
  expect(gone.code).toBe("connect-failed");
}, 20_000);

test("TlsGate refuses a port in use, also by another gate", () =>
  withGate(server, async (gate) => {
    const options = {
      address: gate.address,
      identity: await identityOf(server),
      onClient: () => {},
      onRefused: () => {},
    };
    expect(() => new TlsGate(options)).toThrow(
      `Cannot listen with TLS on ${gate.address}: it is in use; choose another or stop whoever listens there`,
    );
  }));

test("loadTlsIdentity says what is wrong with the files", async () => {
  const good = await identityOf(server);
  expect(good.subject).toContain("CN=server");
  expect(good.expiresMs).toBeGreaterThan(Date.now());
  const missing = await errorOf(identityOf({ ...server, keyFile: join(folder, "none.key") }));
  expect([missing.code, missing.exitCode]).toEqual(["bad-certificate", 2]);
  expect(missing.message).toContain("ENOENT");
  const mixed = await errorOf(identityOf({ ...server, keyFile: client.keyFile }));
  expect(mixed.message).toBe(
    `Cannot use ${client.keyFile} for TLS: it is not the key of the certificate in ${server.certFile}`,
  );
  const noise = join(folder, "noise.pem");
  writeFileSync(noise, "not a certificate");
  const garbled = await errorOf(identityOf({ ...server, caFile: noise }));
  expect(garbled.message).toBe(`Cannot use ${noise} for TLS: it holds no certificate in PEM form`);
  const late = await errorOf(loadTlsIdentity(server, good.expiresMs + 1));
  expect(late.message).toMatch(/^Cannot use .*server\.pem for TLS: it expired on .*; renew it$/);
});
