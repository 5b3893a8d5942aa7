/** From a spec to a ring that answers. */
import { RingError } from "./errors";
import { KetamaRing } from "./ketama";
import { RendezvousRing } from "./rendezvous";
import type { Ring, RingMember, RingSpec } from "./ring";
import { EmptyRing, ModRing, SingleRing } from "./simple-rings";
import { checkMembers, parseRingSpec } from "./spec";
import { TableRing } from "./table-ring";
import { UnionRing } from "./union-ring";

/** Builds the ring of a spec (already parsed, see parseRingSpec); throws RingError "bad-spec" on a bad payload. */
export function buildRing(spec: RingSpec): Ring {
  checkMembers(spec);
  switch (spec.type) {
    case "empty":
      return new EmptyRing(spec);
    case "single":
      return new SingleRing(spec);
    case "mod":
      return new ModRing(spec);
    case "ketama":
      return new KetamaRing(spec);
    case "rendezvous":
      return new RendezvousRing(spec);
    case "table":
      return new TableRing(spec);
    case "union":
      return buildUnion(spec);
  }
}

/** The spec of a union ring for reads between two versions; `newer` gives version and replication. */
export function unionSpec(older: RingSpec, newer: RingSpec): RingSpec {
  const members = new Map<string, RingMember>(older.members.map((member) => [member.peerId, member]));
  for (const member of newer.members) members.set(member.peerId, member);
  return {
    version: newer.version,
    type: "union",
    replication: newer.replication,
    members: [...members.values()].sort((a, b) => (a.peerId < b.peerId ? -1 : 1)),
    payload: { older, newer },
  };
}

function buildUnion(spec: RingSpec): UnionRing {
  const { older, newer } = (spec.payload ?? {}) as Record<string, unknown>;
  const olderSpec = parseRingSpec(older);
  const newerSpec = parseRingSpec(newer);
  if (olderSpec.type === "union" || newerSpec.type === "union")
    throw new RingError("bad-spec", "Cannot read ring: a union of unions");
  const expected = unionSpec(olderSpec, newerSpec).members.map((member) => member.peerId);
  const actual = new Set(spec.members.map((member) => member.peerId));
  if (expected.length !== actual.size || expected.some((peerId) => !actual.has(peerId)))
    throw new RingError(
      "bad-spec",
      "Cannot read ring: the members of a union are not those of its two rings",
    );
  return new UnionRing(spec, buildRing(olderSpec), buildRing(newerSpec));
}
