/**
 * Who this process is in TLS: its certificate and key, and the authority whose certificates it trusts. Read from
 * PEM files and checked whole before use, so that a half-written or mismatched renewal is refused with its reason
 * and the old identity stays in force.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { TlsError } from "./errors";

export interface TlsFiles {
  readonly certFile: string;
  readonly keyFile: string;
  readonly caFile: string;
}

export interface TlsIdentity {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
  /** `CN=node-a`: for messages. */
  readonly subject: string;
  /** Wall-clock milliseconds when the certificate ends. */
  readonly expiresMs: number;
}

function bad(file: string, problem: string, cause?: unknown): TlsError {
  return new TlsError("bad-certificate", `Cannot use ${file} for TLS: ${problem}`, { exitCode: 2, cause });
}

async function readPem(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (error) {
    throw bad(file, error instanceof Error ? error.message : String(error), error);
  }
}

function parse<T>(file: string, what: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw bad(file, `it holds no ${what} in PEM form`, error);
  }
}

/** Throws TlsError "bad-certificate". `wallMs` is now, for the check of the certificate's dates. */
export async function loadTlsIdentity(files: TlsFiles, wallMs: number): Promise<TlsIdentity> {
  const [cert, key, ca] = await Promise.all([
    readPem(files.certFile),
    readPem(files.keyFile),
    readPem(files.caFile),
  ]);
  const certificate = parse(files.certFile, "certificate", () => new X509Certificate(cert));
  const privateKey: KeyObject = parse(files.keyFile, "private key", () => createPrivateKey(key));
  parse(files.caFile, "certificate", () => new X509Certificate(ca));
  if (!certificate.checkPrivateKey(privateKey))
    throw bad(files.keyFile, `it is not the key of the certificate in ${files.certFile}`);
  const expiresMs = Date.parse(certificate.validTo);
  if (expiresMs <= wallMs) throw bad(files.certFile, `it expired on ${certificate.validTo}; renew it`);
  return { cert, key, ca, subject: certificate.subject.replaceAll("\n", ", "), expiresMs };
}
