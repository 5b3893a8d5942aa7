/** A small certificate authority made by openssl, for tests of TLS. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TlsFiles } from "../../src/net/tls";

function openssl(folder: string, ...args: string[]): void {
  const run = Bun.spawnSync(["openssl", ...args], { cwd: folder, stderr: "pipe", timeout: 20_000 });
  if (run.exitCode !== 0) throw new Error(`openssl ${args[0]} failed: ${run.stderr.toString()}`);
}

const KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];

/** Makes NAME.pem and NAME.key, self-signed. */
export function makeAuthority(folder: string, name: string): void {
  openssl(
    folder,
    "req",
    "-x509",
    ...KEY,
    "-keyout",
    `${name}.key`,
    "-out",
    `${name}.pem`,
    "-days",
    "9",
    "-subj",
    `/CN=${name}`,
  );
}

/** Makes NAME.pem and NAME.key, signed by the authority, for the given alternative names. */
export function makeCertificate(
  folder: string,
  authority: string,
  name: string,
  options: {
    readonly alternativeNames?: string;
    readonly organization?: string;
    readonly notAfter?: string;
  } = {},
): TlsFiles {
  const subject = `/O=${options.organization ?? "test"}/CN=${name}`;
  openssl(folder, "req", ...KEY, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", subject);
  const extensions = join(folder, `${name}.ext`);
  writeFileSync(extensions, `subjectAltName=${options.alternativeNames ?? "IP:127.0.0.1,DNS:localhost"}\n`);
  const end =
    options.notAfter === undefined
      ? ["-days", "9"]
      : ["-not_before", "20200101000000Z", "-not_after", options.notAfter];
  const signer = ["-CA", `${authority}.pem`, "-CAkey", `${authority}.key`, "-CAcreateserial"];
  openssl(
    folder,
    "x509",
    "-req",
    "-in",
    `${name}.csr`,
    ...signer,
    "-out",
    `${name}.pem`,
    ...end,
    "-extfile",
    extensions,
  );
  return {
    certFile: join(folder, `${name}.pem`),
    keyFile: join(folder, `${name}.key`),
    caFile: join(folder, `${authority}.pem`),
  };
}
