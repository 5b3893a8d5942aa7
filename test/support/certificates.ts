/** A throw-away CA with a server and a client certificate, made by openssl in a temporary folder. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Certificates {
  readonly folder: string;
  readonly caFile: string;
  readonly server: { readonly certificateFile: string; readonly keyFile: string };
  readonly client: { readonly certificateFile: string; readonly keyFile: string };
  remove(): void;
}

function openssl(folder: string, ...args: readonly string[]): void {
  const { exitCode, stderr } = Bun.spawnSync(["openssl", ...args], { cwd: folder, stderr: "pipe" });
  if (exitCode !== 0) throw new Error(stderr.toString());
}

/** The server's certificate is for 127.0.0.1 and localhost. */
export function makeCertificates(): Certificates {
  const folder = mkdtempSync(join(tmpdir(), "torus-certificates-"));
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  openssl(
    folder,
    ...[
      "req",
      "-x509",
      ...newKey,
      "-keyout",
      "ca.key",
      "-out",
      "ca.pem",
      "-days",
      "2",
      "-subj",
      "/CN=test ca",
    ],
  );
  writeFileSync(
    join(folder, "extensions"),
    "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n",
  );
  const issue = (name: string) => {
    openssl(
      folder,
      ...["req", ...newKey, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", `/CN=${name}`],
    );
    openssl(
      folder,
      ...["x509", "-req", "-in", `${name}.csr`, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"],
      ...["-out", `${name}.pem`, "-days", "2", "-extfile", "extensions"],
    );
    return { certificateFile: join(folder, `${name}.pem`), keyFile: join(folder, `${name}.key`) };
  };
  return {
    folder,
    caFile: join(folder, "ca.pem"),
    server: issue("server"),
    client: issue("client"),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}
