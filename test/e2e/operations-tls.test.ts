/**
 * A cluster whose certificates `torus ctl cert` made: everything works over TLS, and who has no certificate, the
 * wrong one or the wrong role is refused, said once, and harms nobody.
 */
import { afterAll, beforeAll, describe, expect } from "bun:test";
import { copyFileSync, readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { issueCertificate } from "../../src/commands/certificates/certificate";
import { readAuthority, writeCertificate } from "../../src/commands/certificates/files";
import { makeAuthority, makeCertificate } from "../support/authority";
import {
  type CertificateFiles,
  Cluster,
  certificateFactory,
  certificateFlags,
  fio,
  type NbdServer,
  openScene,
  type PeerScheme,
  waitFor,
} from "./harness";

const DAY_MS = 86_400_000;

const pem = ({ certFile, keyFile, caFile }: CertificateFiles) => ({
  cert: readFileSync(certFile),
  key: readFileSync(keyFile),
  ca: readFileSync(caFile),
});

for (const scheme of ["adp", "http"] as readonly PeerScheme[])
  describe(`peers over ${scheme}:// with certificates`, () => {
    const scene = openScene(`tls-${scheme}`);
    let cluster: Cluster;
    let server: NbdServer;

    beforeAll(async () => {
      const issue = await certificateFactory(scene);
      const tls = { daemon: await issue("peer", "peer"), admin: await issue("boss", "admin") };
      cluster = await Cluster.withEtcd(scene, { peerCount: 2, scheme, replication: 2, size: "1GiB", tls });
      await cluster.createVolume("disk", "256MiB");
      server = await cluster.serve("blk", ["disk"]);
    }, 180_000);

    scene.test("a verified load reads back what it wrote, on addresses that say TLS", async () => {
      const addresses = (await cluster.peers()).map((peer) => peer.address);
      expect(addresses.every((address) => address.startsWith(`${scheme}s://127.0.0.1:`))).toBe(true);
      await fio(scene, server.uri("disk"), "load", {
        rw: "randwrite",
        bs: "16k",
        size: "32m",
        iodepth: 8,
        fsync: 32,
        verify: "crc32c",
        verify_fatal: 1,
      });
      // Peers tell their figures now and then.
      await waitFor(
        "both copies to be told",
        async () => (await cluster.usedBytes()) > 2 * 32 * 1024 * 1024,
        60_000,
      );
    });

    scene.test("a client without a certificate is told what to give", async () => {
      const { stdout } = await cluster.torus([
        "ctl",
        "volume",
        "create-block",
        "other",
        "64MiB",
        ...cluster.metaFlags,
      ]);
      expect(stdout).toContain("other");
      const { exitCode, stderr } = await cluster.attempt(
        [
          "blk",
          "nbdserve",
          "other",
          "--meta",
          cluster.etcd!.metaUrl,
          "--listen",
          `unix:${scene.path("none.sock")}`,
        ],
        { timeMsMax: 50_000 },
      );
      expect(exitCode).not.toBe(0);
      expect(stderr).toContain("asks for TLS; give --peer-cert-file, --peer-key-file and --peer-ca-file");
    });
  });

describe("a daemon that keeps the metadata, with certificates", () => {
  const scene = openScene("tls-roles");
  let cluster: Cluster;
  let client: CertificateFiles;
  let stranger: CertificateFiles;
  let expired: CertificateFiles;
  let issue: (name: string, role: string) => Promise<CertificateFiles>;
  const sockets: Socket[] = [];
  afterAll(() => {
    for (const socket of sockets) socket.destroy();
  });

  beforeAll(async () => {
    issue = await certificateFactory(scene);
    client = await issue("alice", "client");
    makeAuthority(scene.folder, "other");
    const caFile = client.caFile;
    stranger = {
      ...makeCertificate(scene.folder, "other", "stranger", { organization: "torus-admin" }),
      caFile,
    };
    expired = { certFile: scene.path("expired.pem"), keyFile: scene.path("expired.key"), caFile };
    const authority = await readAuthority(scene.path("certs"));
    const then = Date.now() - 40 * DAY_MS;
    const subject = { commonName: "expired", organization: "torus-admin" };
    await writeCertificate(expired, issueCertificate(authority, subject, ["127.0.0.1"], DAY_MS, then));
    const tls = { daemon: await issue("peer", "peer"), admin: await issue("boss", "admin") };
    cluster = await Cluster.embedded(scene, { size: "1GiB", tls });
    await cluster.createVolume("disk", "128MiB");
  }, 120_000);

  const as = (files: CertificateFiles, ...args: string[]) =>
    cluster.attempt(["ctl", ...args, "--meta", cluster.daemons[0]!.adminUrl, ...certificateFlags(files)]);

  scene.test("a client's certificate uses volumes and may not change the ring", async () => {
    expect((await as(client, "volume", "create-block", "hers", "64MiB")).exitCode).toBe(0);
    expect((await as(client, "volume", "list")).stdout).toContain("hers");
    const { peerId } = (await cluster.peers())[0]!;
    const ring = (await as(client, "ring", "get", "--json")).stdout;
    const refused = await as(client, "peer", "set-weight", peerId, "7");
    expect(refused.exitCode).not.toBe(0);
    expect(refused.stderr).toMatch(
      /Cannot (change ring or settings|register or change peers) with the certificate "alice" of role client: use one whose organization is torus-admin/,
    );
    expect((await as(cluster.tls!.admin, "ring", "get", "--json")).stdout).toBe(ring);
    expect((await as(cluster.tls!.admin, "peer", "set-weight", peerId, "7")).exitCode).toBe(0);
    expect((await as(client, "ring", "get", "--json")).stdout).not.toBe(ring);
  });

  scene.test("only an admin's certificate changes the log level", async () => {
    const url = `${cluster.daemons[0]!.adminUrl}/log-level`;
    const put = (files: CertificateFiles) =>
      fetch(url, { method: "PUT", body: "debug", tls: pem(files) as never } as RequestInit);
    expect((await put(client)).status).toBe(403);
    expect((await put(cluster.tls!.admin)).status).toBe(200);
    expect(cluster.daemons[0]!.output()).toContain("The log level is debug now");
  });

  scene.test("a stranger's and an expired certificate, and none at all, are refused and logged", async () => {
    const url = `${cluster.daemons[0]!.adminUrl}/status.json`;
    for (const files of [stranger, expired])
      await expect(fetch(url, { tls: pem(files) as never } as RequestInit)).rejects.toThrow();
    await expect(fetch(url, { tls: { ca: readFileSync(client.caFile) } } as RequestInit)).rejects.toThrow();
    await waitFor("the refusals to be logged", () =>
      /Turned 127\.0\.0\.1 away from the admin port: .*expired/i.test(cluster.daemons[0]!.output()),
    );
    await waitFor("readiness", async () => (await cluster.daemons[0]!.ask("/readyz")).ok);
  });

  scene.test("a peer with a stranger's certificate does not get to the metadata", async () => {
    const { exitCode, stderr } = await cluster.attempt(
      [
        ...["daemon", "--data-dir", scene.path("evil"), "--size", "128MiB", "--port", "0"],
        ...["--meta", cluster.daemons[0]!.adminUrl, ...certificateFlags(stranger)],
      ],
      { timeMsMax: 60_000 },
    );
    expect(exitCode).not.toBe(0);
    expect(stderr).toContain("Cannot");
    expect(await cluster.peers()).toHaveLength(1);
  });

  scene.test("a daemon does not start with an expired certificate", async () => {
    const { exitCode, stderr } = await cluster.attempt([
      ...["daemon", "--data-dir", scene.path("late"), "--port", "0", ...certificateFlags(expired)],
    ]);
    expect(exitCode).toBe(2);
    expect(stderr).toMatch(/Cannot use .*expired\.pem for TLS: it expired on .* GMT; renew it/);
  });

  scene.test(
    "a flood of half-open connections, and one that claims 4 GiB, harm nobody and are folded in the log",
    async () => {
      const { peerPort } = cluster.daemons[0]!;
      const server = await cluster.serve("blk", ["disk"]);
      for (let count = 0; count < 400; count++) {
        const socket = connect(peerPort, "127.0.0.1");
        socket.on("error", () => undefined);
        sockets.push(socket);
      }
      const trusted = connectTls({ host: "127.0.0.1", port: peerPort, ...pem(client) });
      sockets.push(trusted);
      const closed = new Promise<void>((resolve) => {
        trusted.on("error", () => resolve());
        trusted.on("close", () => resolve());
      });
      trusted.on("secureConnect", () => {
        // No hello, and whatever field is read as a length says 4 GiB.
        trusted.write(Buffer.alloc(64, 0xff));
      });
      await fio(scene, server.uri("disk"), "load", {
        rw: "randwrite",
        bs: "4k",
        size: "16m",
        iodepth: 4,
        verify: "crc32c",
        verify_fatal: 1,
      });
      await closed;
      await server.stop();
      const lines = cluster.daemons[0]!.output()
        .split("\n")
        .filter((line) => line.includes("Turned 127.0.0.1 away"));
      expect(lines.length).toBeGreaterThan(0);
      expect(lines.length).toBeLessThan(20);
      expect(await cluster.daemons[0]!.stop()).toBe(0);
      await cluster.daemons[0]!.start();
    },
  );

  scene.test("a request over HTTPS that claims 4 GiB is refused, logged once, and harms nobody", async () => {
    const { adminUrl } = cluster.daemons[0]!;
    const { hostname, port } = new URL(adminUrl);
    const claim = () => {
      const socket = connectTls({ host: hostname, port: Number(port), ...pem(client) });
      sockets.push(socket);
      return new Promise<string>((resolve, reject) => {
        socket.on("error", reject);
        socket.on("data", (answer) => resolve(answer.toString()));
        socket.on("secureConnect", () => {
          socket.write(
            `PUT /log-level HTTP/1.1\r\nhost: ${hostname}\r\ncontent-length: ${2 ** 32}\r\n\r\n${"x".repeat(100_000)}`,
          );
        });
      });
    };
    for (const answer of await Promise.all(Array.from({ length: 20 }, claim)))
      expect(answer).toStartWith("HTTP/1.1 413");
    const lines = cluster.daemons[0]!.output()
      .split("\n")
      .filter((line) => line.includes(`its body claims ${2 ** 32} bytes`));
    expect(lines.length).toBeGreaterThan(0);
    expect(lines.length).toBeLessThan(5);
    expect((await as(client, "volume", "list")).stdout).toContain("disk");
  });

  scene.test(
    "a renewed certificate is taken on SIGHUP while connections stay, a broken one is not",
    async () => {
      const { certFile, keyFile } = cluster.tls!.daemon;
      const daemon = cluster.daemons[0]!;
      const renewed = await issue("renewed", "peer");
      const serialOf = async () => {
        const socket = connectTls({ host: "127.0.0.1", port: daemon.adminPort, ...pem(client) });
        sockets.push(socket);
        await new Promise<void>((resolve, reject) =>
          socket.once("secureConnect", resolve).once("error", reject),
        );
        const { fingerprint256 } = socket.getPeerCertificate();
        socket.destroy();
        return fingerprint256;
      };
      const before = await serialOf();
      copyFileSync(renewed.certFile, certFile);
      process.kill(daemon.pid, "SIGHUP");
      await waitFor("the mismatch to be said", () =>
        daemon.output().includes("it is not the key of the certificate"),
      );
      expect(await serialOf()).toBe(before);
      copyFileSync(renewed.keyFile, keyFile);
      process.kill(daemon.pid, "SIGHUP");
      await waitFor("the renewal", () => daemon.output().includes("Took the certificate of "));
      expect(await serialOf()).not.toBe(before);
      await waitFor("readiness", async () => (await daemon.ask("/readyz")).ok);
    },
  );
});
