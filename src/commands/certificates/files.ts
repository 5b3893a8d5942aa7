/** Keys and certificates in a folder. A key is readable by its owner only from its first byte; nothing is overwritten. */
import { X509Certificate } from "node:crypto";
import { mkdir, open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { CommandError } from "../cli";
import type { Authority, IssuedCertificate } from "./certificate";

const KEY_MODE = 0o600;
const CERTIFICATE_MODE = 0o644;
const FOLDER_MODE = 0o700;

export const AUTHORITY_NAME = "ca";

export interface CertificateFiles {
  readonly certFile: string;
  readonly keyFile: string;
}

export function filesOf(folder: string, name: string): CertificateFiles {
  return { certFile: join(folder, `${name}.pem`), keyFile: join(folder, `${name}.key`) };
}

async function writeNew(path: string, text: string, mode: number): Promise<void> {
  try {
    const file = await open(path, "wx", mode);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    const exists = (error as NodeJS.ErrnoException).code === "EEXIST";
    const reason = exists ? "it exists; move it away first" : error instanceof Error ? error.message : error;
    throw new CommandError(exists ? "conflict" : "io", `Cannot write ${path}: ${reason}`, error);
  }
}

/** Throws where either file exists. */
export async function writeCertificate(files: CertificateFiles, made: IssuedCertificate): Promise<void> {
  await writeNew(files.keyFile, made.keyPem, KEY_MODE);
  await writeNew(files.certFile, made.certificatePem, CERTIFICATE_MODE);
}

export async function makeFolder(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: FOLDER_MODE });
}

async function read(path: string, hint: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw new CommandError(
      "io",
      `Cannot read ${path}: ${error instanceof Error ? error.message : error}${hint}`,
      error,
    );
  }
}

export async function readAuthority(folder: string): Promise<Authority> {
  const { certFile, keyFile } = filesOf(folder, AUTHORITY_NAME);
  const hint = "; make an authority first with torus ctl cert init";
  return { certificatePem: await read(certFile, hint), keyPem: await read(keyFile, hint) };
}

export async function readCertificate(path: string): Promise<X509Certificate> {
  const text = await read(path, "");
  try {
    return new X509Certificate(text);
  } catch (error) {
    throw new CommandError("config", `Cannot use ${path}: it holds no certificate in PEM form`, error);
  }
}
