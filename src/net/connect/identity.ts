/** Who is meant and who answers, as every message begins with it. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type ClusterId, type PeerId, parseClusterId, parseIncarnation, parsePeerId } from "../../base";
import type { PeerIdentity } from "../../engine";
import { type Identity, IdentitySchema, type Target, TargetSchema } from "../gen/storage_pb";
import { ConnectStorageError, refusal, type UnaryResult } from "./errors";

export function targetOf(clusterId: ClusterId, peerId: PeerId): Target {
  return create(TargetSchema, { clusterId, peerId });
}

/** Undefined when the request is meant for us. Target fields are optional for tools that ask whoever answers. */
export function refuseTarget(target: Target | undefined, identity: PeerIdentity): UnaryResult | undefined {
  if (target === undefined || target.clusterId === "")
    return refusal("invalid_argument", "Cannot answer: the request names no cluster");
  if (target.clusterId !== identity.clusterId)
    return refusal(
      "failed_precondition",
      `Cannot answer: this peer belongs to cluster ${identity.clusterId}`,
    );
  if (target.peerId !== "" && target.peerId !== identity.peerId)
    return refusal("not_found", `Cannot answer: peer ${identity.peerId} answers at this address`);
  return undefined;
}

export function parseTarget(bytes: Uint8Array): Target {
  return fromBinary(TargetSchema, bytes);
}

export function encodeTarget(target: Target): Uint8Array {
  return toBinary(TargetSchema, target);
}

export function identityMessage(identity: PeerIdentity): Identity {
  return create(IdentitySchema, identity);
}

export function encodeIdentity(identity: PeerIdentity): Uint8Array {
  return toBinary(IdentitySchema, identityMessage(identity));
}

export function parseIdentity(bytes: Uint8Array): PeerIdentity {
  return identityOf(fromBinary(IdentitySchema, bytes));
}

export function identityOf(message: Identity | undefined): PeerIdentity {
  if (message === undefined)
    throw new ConnectStorageError("malformed", "Cannot read an answer: it names no peer");
  return {
    clusterId: parseClusterId(message.clusterId),
    peerId: parsePeerId(message.peerId),
    incarnation: parseIncarnation(message.incarnation),
  };
}
