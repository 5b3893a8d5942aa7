/**
 * An etcd that is reached by TLS with client certificates only, and gives each certificate's owner what the guide on
 * security says: an administrator, peers, and a client that may write one volume's records and no other's.
 */
import { beforeAll, expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  type CertificateFiles,
  certificateFactory,
  certificateFlags,
  freePort,
  openScene,
  qemuIo,
  torusBinary,
  unixUri,
  waitFor,
} from "./harness";

const scene = openScene("etcd-tls");
const guide = readFileSync(join(import.meta.dir, "../../docs/security.md"), "utf8");
let binary: string;
let endpoint: string;
let adminPort: number;
let files: Record<"root" | "peer" | "web-1", CertificateFiles>;

const etcdFlags = ({ certFile, keyFile, caFile }: CertificateFiles) => [
  ...["--meta", `etcd://${endpoint}`],
  ...["--etcd-cert-file", certFile, "--etcd-key-file", keyFile, "--etcd-ca-file", caFile],
];
const as = (who: keyof typeof files, ...args: string[]) =>
  scene.attempt([binary, ...args, ...etcdFlags(files[who]), ...certificateFlags(files[who])], {
    env: { TORUS_CONFIG_DIR: scene.path("config") },
  });
const etcdctl = (who: keyof typeof files, ...args: string[]) => {
  const { certFile, keyFile, caFile } = files[who];
  const tls = [`--cert=${certFile}`, `--key=${keyFile}`, `--cacert=${caFile}`];
  return scene.run(["etcdctl", `--endpoints=https://${endpoint}`, ...tls, ...args], {
    env: { ETCDCTL_API: "3" },
  });
};

beforeAll(async () => {
  binary = await torusBinary();
  const issue = await certificateFactory(scene);
  // etcd's administrator is called root.
  files = {
    root: await issue("root", "admin"),
    peer: await issue("peer", "peer"),
    "web-1": await issue("web-1", "client"),
  };
  const server = await issue("etcd", "peer");
  endpoint = `127.0.0.1:${await freePort()}`;
  adminPort = await freePort();
  const peerUrl = `http://127.0.0.1:${await freePort()}`;
  await scene.start("etcd", [
    ...["etcd", "--name", "etcd", "--data-dir", scene.path("etcd-data"), "--log-level", "warn"],
    ...["--listen-client-urls", `https://${endpoint}`, "--advertise-client-urls", `https://${endpoint}`],
    ...["--cert-file", server.certFile, "--key-file", server.keyFile],
    ...["--client-cert-auth", "--trusted-ca-file", server.caFile],
    ...["--listen-peer-urls", peerUrl, "--initial-advertise-peer-urls", peerUrl],
    ...["--initial-cluster", `etcd=${peerUrl}`],
  ]);
  await waitFor("etcd to answer", async () => (await etcdctl("root", "get", "nothing")).exitCode === 0);
}, 120_000);

scene.test("users of etcd get what the guide gives them, and no more", async () => {
  expect((await as("root", "ctl", "init")).exitCode).toBe(0);
  await etcdctl("root", "user", "add", "root", "--no-password");
  await etcdctl("root", "user", "grant-role", "root", "root");
  await etcdctl("root", "role", "add", "torus-peer");
  for (const [access, prefix] of [
    ["read", "torus/"],
    ["readwrite", "torus/names/"],
    ["readwrite", "torus/volumes/"],
    ["readwrite", "torus/cluster/peers/"],
    ["readwrite", "torus/cluster/live/"],
  ] as const)
    await etcdctl("root", "role", "grant-permission", "torus-peer", "--prefix=true", access, prefix);
  await etcdctl("root", "user", "add", "peer", "--no-password");
  await etcdctl("root", "user", "grant-role", "peer", "torus-peer");
  await etcdctl("root", "auth", "enable");
  await scene.start("daemon", [
    ...[binary, "daemon", "--data-dir", scene.path("data"), "--size", "512MiB", "--port", String(adminPort)],
    ...["--peer-address", `adp://127.0.0.1:${await freePort()}`],
    ...[...etcdFlags(files.peer), ...certificateFlags(files.peer)],
  ]);
  await waitFor("the peer to be registered, and added by an administrator", async () => {
    const added = await as("root", "ctl", "peer", "add", "--all-peers");
    const { stdout } = await as("root", "ctl", "ring", "get", "--json");
    return added.exitCode === 0 && (JSON.parse(stdout) as { members: unknown[] }).members.length === 1;
  });
  const { stdout: found } = await as("root", "ctl", "doctor", "--json");
  const checks = (JSON.parse(found) as { check: string; verdict: string }[]).filter(
    ({ check }) => check === "clock",
  );
  expect(checks).toMatchObject([{ verdict: "ok" }]);
  for (const name of ["theirs", "data"])
    expect((await as("root", "ctl", "volume", "create-block", name, "64MiB")).exitCode).toBe(0);
  const { volumeId } = JSON.parse((await as("root", "ctl", "volume", "info", "data", "--json")).stdout) as {
    volumeId: number;
  };
  // The guide's own lines, for this volume's id.
  const lines = guide
    .split("\n")
    .filter((line) => line.startsWith("    etcdctl "))
    .map((line) =>
      line
        .replaceAll("torus-client-7", "torus-client-it")
        .replace("0000000000007", String(volumeId).padStart(13, "0")),
    );
  expect(lines).toHaveLength(5);
  for (const line of lines) await etcdctl("root", ...line.trim().split(" ").slice(1));
  await scene.start("server", [
    ...[binary, "blk", "nbdserve", "data", "--listen", `unix:${scene.path("data.sock")}`],
    ...[...etcdFlags(files["web-1"]), ...certificateFlags(files["web-1"])],
  ]);
  const uri = unixUri(scene.path("data.sock"), "data");
  await waitFor("its volume to be served", async () => {
    const { exitCode } = await scene.attempt(["nbdinfo", "--size", uri]);
    return exitCode === 0;
  });
  await qemuIo(scene, uri, ["write -P 0x77 0 1M", "flush", "read -P 0x77 0 1M"]);
  for (const args of [
    ["ctl", "volume", "delete", "theirs"],
    ["ctl", "volume", "resize", "theirs", "128MiB"],
    ["ctl", "volume", "access", "theirs", "--allow", "web-1"],
    ["ctl", "ring", "set-replication", "1"],
    ["blk", "nbdserve", "theirs", "--listen", `unix:${scene.path("theirs.sock")}`],
  ]) {
    const { exitCode, stderr } = await as("web-1", ...args);
    expect([args.join(" "), exitCode !== 0]).toEqual([args.join(" "), true]);
    expect(stderr).toContain("permission denied");
  }
  await qemuIo(scene, uri, ["read -P 0x77 0 1M"]);
});

scene.test("without a certificate etcd is not reached, and the error says what to do", async () => {
  const { exitCode, stderr } = await scene.attempt(
    [binary, "ctl", "volume", "list", "--meta", `etcd://${endpoint}`, "--etcd-ca-file", files.root.caFile],
    { env: { TORUS_CONFIG_DIR: scene.path("config") } },
  );
  expect(exitCode).not.toBe(0);
  expect(stderr).toMatch(/^Cannot /m);
});
