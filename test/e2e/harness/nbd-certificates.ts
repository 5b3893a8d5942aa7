/** Certificates for NBD over TLS, made by openssl as an administrator would, laid out as libnbd and QEMU want them. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Scene } from "./scene";

/** A folder for one side, signed by an authority of that name; the scene may have several. */
export async function makeNbdCertificates(scene: Scene, authority: string, name: string): Promise<string> {
  const folder = scene.path(`${authority}-${name}`);
  const authorityKey = scene.path(`${authority}.key`);
  const authorityFile = scene.path(`${authority}.pem`);
  mkdirSync(folder, { recursive: true });
  const openssl = (...args: string[]) => scene.run(["openssl", ...args]);
  if (!(await Bun.file(authorityFile).exists()))
    await openssl(
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"],
      ...["-subj", `/CN=${authority}`, "-keyout", authorityKey, "-out", authorityFile],
    );
  const request = join(folder, "request.pem");
  const kind = name === "server" ? "server" : "client";
  await openssl(
    ...["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", `/CN=${name}`],
    ...["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
    ...["-keyout", join(folder, `${kind}-key.pem`), "-out", request],
  );
  await openssl(
    ...["x509", "-req", "-in", request, "-CA", authorityFile, "-CAkey", authorityKey, "-CAcreateserial"],
    ...["-copy_extensions", "copy", "-days", "2", "-out", join(folder, `${kind}-cert.pem`)],
  );
  await scene.run(["cp", authorityFile, join(folder, "ca-cert.pem")]);
  return folder;
}

/** What `blk nbdserve` is told to serve with the certificate of that folder. */
export function nbdServerFlags(folder: string): string[] {
  return [
    ...["--tls-cert-file", join(folder, "server-cert.pem"), "--tls-key-file", join(folder, "server-key.pem")],
    ...["--tls-ca-file", join(folder, "ca-cert.pem")],
  ];
}
