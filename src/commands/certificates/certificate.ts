/**
 * X.509 v3 certificates (RFC 5280) with P-256 keys, signed with ECDSA and SHA-256:
 *
 *   SEQUENCE { tbs, AlgorithmIdentifier, BIT STRING signature }
 *   tbs: [0] version 2, serial, algorithm, issuer, validity, subject, public key, [3] extensions
 *
 * The extensions: basic constraints and key usage (critical), extended key usage for both ends of TLS, the
 * alternative names, and the key identifiers by which a chain is found.
 */
import {
  createHash,
  createPrivateKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
  X509Certificate,
} from "node:crypto";
import { isIP, isIPv4 } from "node:net";
import { CommandError } from "../cli";
import * as der from "./der";

export interface CertificateSubject {
  readonly commonName: string;
  /** The role, for daemons and clients. */
  readonly organization: string;
}

export interface Authority {
  readonly certificatePem: string;
  readonly keyPem: string;
}

export interface IssuedCertificate {
  readonly certificatePem: string;
  readonly keyPem: string;
}

const ECDSA_SHA256 = der.sequence(der.objectIdentifier("1.2.840.10045.4.3.2"));
/** Clocks of machines differ; a certificate is good at once everywhere. */
const BACKDATE_MS = 5 * 60_000;

const NAME_ATTRIBUTES = { organization: "2.5.4.10", commonName: "2.5.4.3" } as const;

function distinguishedName({ commonName, organization }: CertificateSubject): Uint8Array {
  const attribute = (oid: string, text: string) =>
    der.set(der.sequence(der.objectIdentifier(oid), der.utf8String(text)));
  return der.sequence(
    attribute(NAME_ATTRIBUTES.organization, organization),
    attribute(NAME_ATTRIBUTES.commonName, commonName),
  );
}

function addressBytes(address: string): Uint8Array {
  if (isIPv4(address)) return Uint8Array.from(address.split(".").map(Number));
  // The URL parser writes every IPv6 address in one form, without a part in IPv4's.
  const [left = "", right] = new URL(`http://[${address}]/`).hostname.slice(1, -1).split("::");
  const groups = (text: string) =>
    text === "" ? [] : text.split(":").map((group) => Number.parseInt(group, 16));
  const head = groups(left);
  const tail = right === undefined ? [] : groups(right);
  const all = [...head, ...new Array<number>(8 - head.length - tail.length).fill(0), ...tail];
  return Uint8Array.from(all.flatMap((group) => [group >> 8, group & 0xff]));
}

function extension(oid: string, critical: boolean, value: Uint8Array): Uint8Array {
  return der.sequence(
    der.objectIdentifier(oid),
    ...(critical ? [der.boolean(true)] : []),
    der.octetString(value),
  );
}

/** SHA-1 of the public key, as RFC 5280 4.2.1.2 suggests; a name, not a proof. */
function keyIdentifier(publicKey: KeyObject): Uint8Array {
  const point = publicKey.export({ type: "spki", format: "der" }).subarray(-65);
  return createHash("sha1").update(point).digest();
}

interface Content {
  readonly subject: Uint8Array;
  readonly issuer: Uint8Array;
  readonly publicKey: KeyObject;
  readonly issuerPublicKey: KeyObject;
  readonly notAfterMs: number;
  readonly isAuthority: boolean;
  readonly alternativeNames: readonly string[];
}

function extensions(content: Content): Uint8Array {
  const { isAuthority, alternativeNames } = content;
  // Bit 0 digitalSignature; bits 5 and 6 keyCertSign and cRLSign.
  const usage = isAuthority ? der.bitString(Uint8Array.of(0x06), 1) : der.bitString(Uint8Array.of(0x80), 7);
  const list = [
    extension(
      "2.5.29.19",
      true,
      der.sequence(...(isAuthority ? [der.boolean(true), der.integer(Uint8Array.of(0))] : [])),
    ),
    extension("2.5.29.15", true, usage),
    extension("2.5.29.14", false, der.octetString(keyIdentifier(content.publicKey))),
    extension("2.5.29.35", false, der.sequence(der.implicit(0, keyIdentifier(content.issuerPublicKey)))),
  ];
  if (!isAuthority)
    list.push(
      extension(
        "2.5.29.37",
        false,
        der.sequence(der.objectIdentifier("1.3.6.1.5.5.7.3.1"), der.objectIdentifier("1.3.6.1.5.5.7.3.2")),
      ),
    );
  if (alternativeNames.length > 0) {
    const names = alternativeNames.map((name) =>
      isIP(name) === 0 ? der.implicit(2, Buffer.from(name)) : der.implicit(7, addressBytes(name)),
    );
    list.push(extension("2.5.29.17", false, der.sequence(...names)));
  }
  return der.explicit(3, der.sequence(...list));
}

function makeCertificate(content: Content, signingKey: KeyObject, nowMs: number): string {
  const serial = crypto.getRandomValues(new Uint8Array(16));
  const toBeSigned = der.sequence(
    der.explicit(0, der.integer(Uint8Array.of(2))),
    der.integer(serial),
    ECDSA_SHA256,
    content.issuer,
    der.sequence(der.time(nowMs - BACKDATE_MS), der.time(content.notAfterMs)),
    content.subject,
    content.publicKey.export({ type: "spki", format: "der" }),
    extensions(content),
  );
  const signature = sign("sha256", toBeSigned, signingKey);
  return pem("CERTIFICATE", der.sequence(toBeSigned, ECDSA_SHA256, der.bitString(signature)));
}

function pem(label: string, bytes: Uint8Array): string {
  const lines =
    Buffer.from(bytes)
      .toString("base64")
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join("\n")}\n-----END ${label}-----\n`;
}

const newKeys = () => generateKeyPairSync("ec", { namedCurve: "P-256" });
const keyPem = (key: KeyObject) => key.export({ type: "pkcs8", format: "pem" }) as string;

/** A self-signed authority that signs end certificates only. */
export function makeAuthority(subject: CertificateSubject, lifetimeMs: number, nowMs: number): Authority {
  const { publicKey, privateKey } = newKeys();
  const name = distinguishedName(subject);
  const content: Content = {
    subject: name,
    issuer: name,
    publicKey,
    issuerPublicKey: publicKey,
    notAfterMs: nowMs + lifetimeMs,
    isAuthority: true,
    alternativeNames: [],
  };
  return { certificatePem: makeCertificate(content, privateKey, nowMs), keyPem: keyPem(privateKey) };
}

/**
 * A certificate for both ends of TLS, with a new key.
 * @param alternativeNames host names and addresses that the holder is reached by.
 */
export function issueCertificate(
  authority: Authority,
  subject: CertificateSubject,
  alternativeNames: readonly string[],
  lifetimeMs: number,
  nowMs: number,
): IssuedCertificate {
  const issuer = new X509Certificate(authority.certificatePem);
  const issuerName = distinguishedName(subjectOf(issuer));
  if (!issuer.raw.includes(issuerName))
    throw new CommandError(
      "config",
      "Cannot sign with this authority: it was not made by torus ctl cert init",
    );
  const { publicKey, privateKey } = newKeys();
  const content: Content = {
    subject: distinguishedName(subject),
    issuer: issuerName,
    publicKey,
    issuerPublicKey: issuer.publicKey,
    notAfterMs: Math.min(nowMs + lifetimeMs, Date.parse(issuer.validTo)),
    isAuthority: false,
    alternativeNames,
  };
  return {
    certificatePem: makeCertificate(content, createPrivateKey(authority.keyPem), nowMs),
    keyPem: keyPem(privateKey),
  };
}

/** Of a certificate made here. */
export function subjectOf(certificate: X509Certificate): CertificateSubject {
  const fields = new Map(
    certificate.subject.split("\n").map((line) => {
      const at = line.indexOf("=");
      return [line.slice(0, at), line.slice(at + 1)] as const;
    }),
  );
  return { commonName: fields.get("CN") ?? "", organization: fields.get("O") ?? "" };
}
