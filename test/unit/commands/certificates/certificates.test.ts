/** Certificates made here, judged by openssl and by the runtime's own parser. */
import { afterAll, expect, test } from "bun:test";
import { X509Certificate } from "node:crypto";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { issueCertificate, makeAuthority } from "../../../../src/commands/certificates/certificate";
import { integer, objectIdentifier, time } from "../../../../src/commands/certificates/der";
import { filesOf, writeCertificate } from "../../../../src/commands/certificates/files";

const folder = mkdtempSync(join(tmpdir(), "torus-certificates-"));
afterAll(() => rmSync(folder, { recursive: true }));

const DAY_MS = 86_400_000;
const nowMs = Date.now();
const authority = makeAuthority({ commonName: "test ca", organization: "torus" }, 100 * DAY_MS, nowMs);
const subject = { commonName: "node-a", organization: "torus-peer" };
const hosts = ["10.0.0.1", "node-a.example.org", "fd00::1:2", "::ffff:10.1.2.3"];

function openssl(...args: readonly string[]): { exitCode: number; text: string } {
  const run = Bun.spawnSync(["openssl", ...args], { cwd: folder, stderr: "pipe" });
  return { exitCode: run.exitCode, text: run.stdout.toString() + run.stderr.toString() };
}

const write = (name: string, text: string) => writeFileSync(join(folder, name), text);

test("issueCertificate makes what openssl accepts strictly, for servers and clients", () => {
  const made = issueCertificate(authority, subject, hosts, 30 * DAY_MS, nowMs);
  write("ca.pem", authority.certificatePem);
  write("a.pem", made.certificatePem);
  write("a.key", made.keyPem);
  for (const purpose of ["sslserver", "sslclient"]) {
    const { exitCode, text } = openssl(
      "verify",
      "-x509_strict",
      "-purpose",
      purpose,
      "-CAfile",
      "ca.pem",
      "a.pem",
    );
    expect(text).toBe("a.pem: OK\n");
    expect(exitCode).toBe(0);
  }
  const { text } = openssl("x509", "-in", "a.pem", "-noout", "-text");
  expect(text).toContain("Subject: O = torus-peer, CN = node-a");
  expect(text).toContain("Issuer: O = torus, CN = test ca");
  expect(text).toContain(
    "IP Address:10.0.0.1, DNS:node-a.example.org, IP Address:FD00:0:0:0:0:0:1:2, IP Address:0:0:0:0:0:FFFF:A01:203",
  );
  const certificate = new X509Certificate(made.certificatePem);
  expect(certificate.checkIP("10.0.0.1")).toBe("10.0.0.1");
  expect(certificate.checkHost("node-a.example.org")).toBe("node-a.example.org");
  expect(certificate.verify(new X509Certificate(authority.certificatePem).publicKey)).toBe(true);
});

test("issueCertificate of another authority is not trusted, nor does an end certificate sign", () => {
  const other = makeAuthority({ commonName: "test ca", organization: "torus" }, DAY_MS, nowMs);
  const stranger = issueCertificate(other, subject, hosts, DAY_MS, nowMs);
  write("stranger.pem", stranger.certificatePem);
  expect(openssl("verify", "-CAfile", "ca.pem", "stranger.pem").exitCode).not.toBe(0);
  const made = issueCertificate(authority, subject, hosts, DAY_MS, nowMs);
  const forged = issueCertificate(
    made,
    { commonName: "evil", organization: "torus-admin" },
    [],
    DAY_MS,
    nowMs,
  );
  write("middle.pem", made.certificatePem);
  write("forged.pem", forged.certificatePem);
  expect(openssl("verify", "-CAfile", "ca.pem", "-untrusted", "middle.pem", "forged.pem").exitCode).not.toBe(
    0,
  );
});

test("issueCertificate never outlives its authority, and an expired one is seen as such", () => {
  const made = issueCertificate(authority, subject, hosts, 10_000 * DAY_MS, nowMs);
  const authorityEnd = new X509Certificate(authority.certificatePem).validTo;
  expect(new X509Certificate(made.certificatePem).validTo).toBe(authorityEnd);
  const past = nowMs - 50 * DAY_MS;
  const old = makeAuthority({ commonName: "old", organization: "torus" }, 200 * DAY_MS, past);
  write("old-ca.pem", old.certificatePem);
  write("old.pem", issueCertificate(old, subject, hosts, DAY_MS, past).certificatePem);
  const { exitCode, text } = openssl("verify", "-CAfile", "old-ca.pem", "old.pem");
  expect(exitCode).not.toBe(0);
  expect(text).toContain("certificate has expired");
});

test("issueCertificate refuses an authority whose name it cannot repeat", () => {
  openssl(
    ..."req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout f.key -out f.pem -subj".split(
      " ",
    ),
    "/C=DE/O=elsewhere/CN=foreign",
  );
  const read = async (name: string) => Bun.file(join(folder, name)).text();
  return Promise.all([read("f.pem"), read("f.key")]).then(([certificatePem, keyPem]) => {
    expect(() => issueCertificate({ certificatePem, keyPem }, subject, hosts, DAY_MS, nowMs)).toThrow(
      "Cannot sign with this authority: it was not made by torus ctl cert init",
    );
  });
});

test("writeCertificate gives the key to its owner only and overwrites nothing", async () => {
  const files = filesOf(folder, "mine");
  const made = issueCertificate(authority, subject, hosts, DAY_MS, nowMs);
  await writeCertificate(files, made);
  expect(statSync(files.keyFile).mode & 0o777).toBe(0o600);
  await expect(writeCertificate(files, made)).rejects.toThrow(
    `Cannot write ${files.keyFile}: it exists; move it away first`,
  );
});

test.each([
  ["1.2.840.10045.4.3.2", "06082a8648ce3d040302"],
  ["2.5.29.17", "0603551d11"],
  ["2.5.4.3", "0603550403"],
])("objectIdentifier encodes %s", (dotted, hex) => {
  expect(Buffer.from(objectIdentifier(dotted)).toString("hex")).toBe(hex);
});

test.each([
  [[0], "020100"],
  [[0, 0, 5], "020105"],
  [[0x80], "02020080"],
  [[0x7f, 0xff], "02027fff"],
])("integer encodes %p without needless zeros and never negative", (bytes, hex) => {
  expect(Buffer.from(integer(Uint8Array.from(bytes))).toString("hex")).toBe(hex);
});

test("time changes its form in 2050", () => {
  expect(
    Buffer.from(time(Date.UTC(2049, 11, 31, 23, 59, 59)))
      .toString("latin1")
      .slice(2),
  ).toBe("491231235959Z");
  expect(
    Buffer.from(time(Date.UTC(2050, 0, 1)))
      .toString("latin1")
      .slice(2),
  ).toBe("20500101000000Z");
});
