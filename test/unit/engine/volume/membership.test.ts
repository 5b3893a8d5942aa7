/** Which members a log set takes in, as who, and when: desiredLogSet over what a writer knows of its peers. */
import { describe, expect, test } from "bun:test";
import type { Incarnation, PeerId } from "../../../../src/base";
import type { PeerHealth } from "../../../../src/engine/distributor";
import { desiredLogSet, type MembershipView, newcomersOf } from "../../../../src/engine/volume/membership";
import { buildRing } from "../../../../src/ring";

const A = "aaaaaaaa-0000-4000-8000-000000000001" as PeerId;
const B = "bbbbbbbb-0000-4000-8000-000000000002" as PeerId;
const inc = (text: string) => text as Incarnation;

interface Known {
  /** Peers of the present set, with their incarnations. */
  readonly current: Readonly<Record<string, string>>;
  readonly registered: Readonly<Record<string, string>>;
  readonly heard?: Readonly<Record<string, string>>;
  /** Of those heard, a moment ago. */
  readonly fresh?: Readonly<Record<string, string>>;
  readonly retired?: readonly string[];
}

function viewOf({ current, registered, heard = {}, fresh = {}, retired = [] }: Known): MembershipView {
  const members = Object.keys(registered).map((peerId) => ({
    peerId: peerId as PeerId,
    weight: 100,
    zone: "",
  }));
  const health = {
    silentMs: () => 0,
    isGone: () => false,
    isUp: () => true,
    incarnation: (peerId: PeerId) => inc(heard[peerId] ?? ""),
    freshIncarnation: (peerId: PeerId) => inc(fresh[peerId] ?? ""),
  };
  return {
    cluster: {
      peers: Object.entries(registered).map(([peerId, incarnation]) => ({ peerId, incarnation, live: true })),
    } as unknown as MembershipView["cluster"],
    ring: buildRing({ version: 3, type: "mod", replication: 1, members }),
    current: {
      ringVersion: 2,
      width: 1,
      members: Object.entries(current).map(([peerId, incarnation]) => ({
        peerId: peerId as PeerId,
        incarnation: inc(incarnation),
      })),
    },
    health: health as unknown as PeerHealth,
    writeLevel: "all",
    goneMsMax: 1_000,
    silentMsMax: 5_000,
    retired: new Set(retired.map(inc)),
  };
}

describe("a log set", () => {
  test("takes a member in when it has answered just now, as who it said it is", () => {
    const known = { current: { [A]: "a1" }, registered: { [A]: "a1", [B]: "b1" } };
    expect(newcomersOf(viewOf(known))).toEqual([B]);
    for (const heard of [{}, { [B]: "b1" }])
      expect(desiredLogSet(viewOf({ ...known, heard }))?.members.map(({ peerId }) => peerId)).toEqual([A]);
    const answered = viewOf({ ...known, heard: { [B]: "b2" }, fresh: { [B]: "b2" } });
    expect(desiredLogSet(answered)?.members).toContainEqual({ peerId: B, incarnation: inc("b2") });
  });

  test("does not take back an incarnation that a later one replaced", () => {
    const known = { current: { [A]: "a1" }, registered: { [A]: "a1", [B]: "b1" }, fresh: { [B]: "b1" } };
    expect(desiredLogSet(viewOf({ ...known, retired: ["b1"] }))?.members).toHaveLength(1);
  });

  test("keeps a member that has not been heard yet, and follows it to a new incarnation", () => {
    const current = { [A]: "a1", [B]: "b1" };
    const kept = desiredLogSet(viewOf({ current, registered: { [A]: "a1", [B]: "b1" } }));
    expect(kept?.members).toHaveLength(2);
    const moved = desiredLogSet(viewOf({ current, registered: { [A]: "a1", [B]: "b2" } }));
    expect(moved?.members).toContainEqual({ peerId: B, incarnation: inc("b2") });
  });
});
