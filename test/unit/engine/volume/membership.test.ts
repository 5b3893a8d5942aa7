/** Which members a log set takes in, as who, and when: desiredLogSet over what a writer knows of its peers. */
import { describe, expect, test } from "bun:test";
import type { Incarnation, PeerId } from "../../../../src/base";
import type { PeerHealth } from "../../../../src/engine/distributor";
import { desiredLogSet, type MembershipView, peersToAsk } from "../../../../src/engine/volume/membership";
import { buildRing } from "../../../../src/ring";

const A = "aaaaaaaa-0000-4000-8000-000000000001" as PeerId;
const B = "bbbbbbbb-0000-4000-8000-000000000002" as PeerId;
const C = "cccccccc-0000-4000-8000-000000000003" as PeerId;
const inc = (text: string) => text as Incarnation;

interface Known {
  /** Peers of the present set, with their incarnations. */
  readonly current: Readonly<Record<string, string>>;
  readonly registered: Readonly<Record<string, string>>;
  readonly heard?: Readonly<Record<string, string>>;
  /** Of those heard, a moment ago. */
  readonly fresh?: Readonly<Record<string, string>>;
  readonly retired?: readonly string[];
  /** Of the present set. */
  readonly width?: number;
  readonly replication?: number;
  /** Who does not answer, and for how long. */
  readonly silentMs?: Readonly<Record<string, number>>;
}

function viewOf(known: Known): MembershipView {
  const { current, registered, heard = {}, fresh = {}, retired = [] } = known;
  const { width = 1, replication = 1, silentMs = {} } = known;
  const members = Object.keys(registered).map((peerId) => ({
    peerId: peerId as PeerId,
    weight: 100,
    zone: "",
  }));
  const health = {
    silentMs: (peerId: PeerId) => silentMs[peerId] ?? 0,
    isGone: () => false,
    isUp: (peerId: PeerId) => silentMs[peerId] === undefined,
    incarnation: (peerId: PeerId) => inc(heard[peerId] ?? ""),
    freshIncarnation: (peerId: PeerId) => inc(fresh[peerId] ?? ""),
  };
  return {
    cluster: {
      peers: Object.entries(registered).map(([peerId, incarnation]) => ({ peerId, incarnation, live: true })),
    } as unknown as MembershipView["cluster"],
    ring: buildRing({ version: 3, type: "mod", replication, members }),
    current: {
      ringVersion: 2,
      width,
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
    expect(peersToAsk(viewOf(known))).toEqual([B]);
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

  describe("whose width is lowered", () => {
    const current = { [A]: "a1", [B]: "b1", [C]: "c1" };
    const fresh = { [A]: "a1", [B]: "b1", [C]: "c1" };
    const without = (peerId: PeerId) =>
      Object.fromEntries(Object.entries(fresh).filter(([id]) => id !== peerId));
    const cases: readonly (readonly [string, Partial<Known>, readonly PeerId[] | undefined])[] = [
      ["takes all that answered just now", { fresh }, [A, B, C]],
      ["waits for one that was not heard of late", { fresh: without(C) }, undefined],
      ["waits for one that keeps silent", { fresh: without(C), silentMs: { [C]: 400 } }, undefined],
      ["leaves out one that stays silent", { fresh: without(C), silentMs: { [C]: 5_001 } }, [A, B]],
      [
        "waits for one that has registered as another",
        { fresh, registered: { ...current, [C]: "c2" } },
        undefined,
      ],
      [
        "does not wait while the present set has not its copies",
        { fresh: { [A]: "a1" }, silentMs: { [B]: 400, [C]: 400 } },
        [A],
      ],
      ["waits when nobody answers", { fresh: {}, silentMs: { [A]: 400, [B]: 400, [C]: 400 } }, undefined],
      [
        "waits where those that answer are fewer than the copies wanted",
        { fresh: { [A]: "a1" }, silentMs: { [B]: 400, [C]: 400 }, width: 3, replication: 2 },
        undefined,
      ],
    ];
    for (const [what, known, expected] of cases)
      test(what, () => {
        const view = viewOf({ current, registered: current, width: 2, ...known });
        expect(peersToAsk(view)).toEqual([A, B, C]);
        expect(desiredLogSet(view)?.members.map(({ peerId }) => peerId)).toEqual(expected as PeerId[]);
        for (const member of desiredLogSet(view)?.members ?? [])
          expect(fresh).toMatchObject({ [member.peerId]: member.incarnation });
      });
  });
});
