/**
 * TLS to an etcd that is named by its address. gRPC names the peer in the handshake (SNI) by whatever the endpoint
 * says; for an IP address that is not allowed, and this runtime refuses it, where Node.js only warns. etcd3 offers no
 * way to set it, so its credentials object is given a neutral name for the handshake and a check of the
 * certificate against the address itself. The fields reached into are asserted, so that an update of etcd3 or gRPC
 * that moves them fails loudly and not by a weaker check.
 */
import { isIP } from "node:net";
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import type { Etcd3 } from "etcd3";
import { assert } from "../../base";

/** Sent in the handshake; no certificate is checked against it. */
const HANDSHAKE_NAME = "etcd.invalid";

interface SecureCredentials {
  verifyOptions: { checkServerIdentity?: (host: string, certificate: PeerCertificate) => Error | undefined };
  _createSecureConnector(target: unknown, options: object, callCredentials: unknown): unknown;
}

/** Call before the client's first use; does nothing for endpoints with a host name. */
export function allowAddressInTls(client: Etcd3, endpoint: string): void {
  const host = endpoint.slice(0, endpoint.lastIndexOf(":")).replace(/^\[|\]$/g, "");
  if (isIP(host) === 0) return;
  const { pool } = client as unknown as { pool?: { hosts?: { channelCredentials?: SecureCredentials }[] } };
  const credentials = pool?.hosts?.[0]?.channelCredentials;
  assert(
    typeof credentials?.verifyOptions === "object" &&
      typeof credentials._createSecureConnector === "function",
    "etcd3's TLS credentials have another shape than expected",
  );
  const create = credentials._createSecureConnector.bind(credentials);
  credentials.verifyOptions.checkServerIdentity = (_name, certificate) =>
    checkServerIdentity(host, certificate);
  credentials._createSecureConnector = (target, options, callCredentials) =>
    create(target, { ...options, "grpc.ssl_target_name_override": HANDSHAKE_NAME }, callCredentials);
}
