/** Acknowledgement by W distinct disks of the set, in order, joint while the set changes; and the walk past peers. */
import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import {
  asEpoch,
  asVolumeId,
  BlockKind,
  heapBuffer,
  type Incarnation,
  type PeerId,
  parseIncarnation,
  parsePeerId,
} from "../../../../src/base";
import {
  DistributedBlock,
  Distributor,
  type DistributorError,
  PeerHealth,
  Placement,
} from "../../../../src/engine/distributor";
import { type LogSet, type OutgoingPut, type PeerTransport, StorageStatus } from "../../../../src/engine";
import { buildRing, createRing } from "../../../../src/ring";
import { ManualClock } from "../../../support/manual-clock";

const peerIds = [1, 2, 3, 4, 5].map((digit) =>
  parsePeerId(`${String(digit).repeat(8)}-0000-4000-8000-000000000000`),
);
const incarnationOf = (peer: PeerId, life = 0): Incarnation =>
  parseIncarnation(`${peer.slice(0, 8)}${String(life).padStart(8, "0")}`);

interface Sent {
  readonly peer: PeerId;
  readonly request: OutgoingPut;
}

/** Keeps what is sent until the test answers; `inline` answers from inside the call. */
class HeldTransport {
  sent: Sent[] = [];
  inline: ((peer: PeerId) => StorageStatus | undefined) | undefined;
  down = new Set<PeerId>();

  put(peer: PeerId, request: OutgoingPut): void {
    const status = this.inline?.(peer);
    if (status !== undefined) request.done(peer, incarnationOf(peer), status);
    else this.sent.push({ peer, request });
  }

  isLikelyUp(peer: PeerId): boolean {
    return !this.down.has(peer);
  }

  statistics(): Promise<never> {
    return Promise.reject(new Error("down"));
  }

  answer(peer: PeerId, status: StorageStatus, life = 0): number {
    const mine = this.sent.filter((one) => one.peer === peer);
    this.sent = this.sent.filter((one) => one.peer !== peer);
    for (const { request } of mine)
      request.done(peer, status === StorageStatus.unreachable ? "" : incarnationOf(peer, life), status);
    return mine.length;
  }
}

function setup(memberCount: number, width: number, copies = width) {
  const clock = new ManualClock();
  const transport = new HeldTransport();
  const port = transport as unknown as PeerTransport;
  const ring = buildRing(
    createRing({
      type: "mod",
      replication: 2,
      members: peerIds.map((peerId) => ({ peerId, weight: 1, zone: "" })),
    }),
  );
  const logSet = (
    members: readonly PeerId[],
    wide: number,
    lives: Partial<Record<PeerId, number>> = {},
  ): LogSet => ({
    ringVersion: 1,
    members: members.map((peerId) => ({ peerId, incarnation: incarnationOf(peerId, lives[peerId] ?? 0) })),
    width: wide,
  });
  const seen = { acknowledged: 0, full: false, stuck: 0, fatal: undefined as DistributorError | undefined };
  const members = peerIds.slice(0, memberCount);
  const distributor = new Distributor(
    clock,
    port,
    new Placement(logSet(members, width), ring, copies),
    {
      onAcknowledged: (index) => {
        seen.acknowledged = index;
      },
      onLowSpace: () => undefined,
      onSpaceChange: (full) => {
        seen.full = full;
      },
      onStuck: () => {
        seen.stuck++;
      },
      onFatal: (error) => {
        seen.fatal = error;
      },
    },
    new PeerHealth(clock, port),
  );
  let next = 1;
  const released: number[] = [];
  const submit = (): DistributedBlock => {
    const block = new DistributedBlock();
    const index = next++;
    block.ref = { kind: BlockKind.data, volumeId: asVolumeId(1), epoch: asEpoch(5), index };
    block.buffer = heapBuffer(100);
    block.lengthBytes = 100;
    block.writerEpoch = 5;
    block.released = () => released.push(index);
    distributor.submit(block);
    return block;
  };
  const place = (set: LogSet, wanted = copies): Placement => new Placement(set, ring, wanted);
  return { clock, transport, distributor, seen, submit, released, members, logSet, place };
}

describe("Distributor", () => {
  test("sends to W members and acknowledges in order only", () => {
    const { transport, seen, submit, released } = setup(3, 2);
    submit();
    submit();
    expect(transport.sent).toHaveLength(4);
    const second = transport.sent.slice(2);
    for (const { peer, request } of second) request.done(peer, incarnationOf(peer), StorageStatus.ok);
    expect(seen.acknowledged).toBe(0);
    expect(released).toEqual([]);
    for (const { peer, request } of transport.sent.slice(0, 2))
      request.done(peer, incarnationOf(peer), StorageStatus.ok);
    expect(seen.acknowledged).toBe(2);
    expect(released).toEqual([1, 2]);
  });

  test("an acknowledgement by another incarnation counts for nothing", () => {
    const { transport, seen, submit } = setup(2, 2);
    submit();
    const [first, second] = transport.sent as [Sent, Sent];
    transport.answer(first.peer, StorageStatus.ok, 7);
    transport.answer(second.peer, StorageStatus.ok);
    expect(seen.acknowledged).toBe(0);
    expect(seen.stuck).toBe(1);
  });

  test("walks past a member that refuses, at once, and past one that is silent, after a while; never outside S", () => {
    const { clock, transport, seen, submit, members } = setup(3, 2);
    submit();
    const [first, second] = transport.sent as [Sent, Sent];
    transport.answer(first.peer, StorageStatus.unreachable);
    const third = transport.sent.at(-1) as Sent;
    expect(members).toContain(third.peer);
    expect([first.peer, second.peer]).not.toContain(third.peer);
    transport.answer(third.peer, StorageStatus.ok);
    clock.advance(300);
    expect(seen.acknowledged).toBe(0);
    transport.answer(second.peer, StorageStatus.ok);
    expect(seen.acknowledged).toBe(1);
    submit();
    // The dead one is not waited for again.
    expect(transport.sent.map((one) => one.peer)).not.toContain(first.peer);
    const silent = transport.sent[0] as Sent;
    clock.advance(1_000);
    expect(transport.sent.some((one) => one.peer !== silent.peer)).toBe(true);
  });

  test("a late answer of a member that was passed over still counts, and the buffer waits for it", () => {
    const { clock, transport, seen, submit, released } = setup(3, 2);
    submit();
    const [first, second] = transport.sent as [Sent, Sent];
    transport.sent = [];
    clock.advance(1_000);
    const third = transport.sent[0] as Sent;
    first.request.done(first.peer, incarnationOf(first.peer), StorageStatus.ok);
    second.request.done(second.peer, incarnationOf(second.peer), StorageStatus.ok);
    expect(seen.acknowledged).toBe(1);
    expect(released).toEqual([]);
    third.request.done(third.peer, "", StorageStatus.unreachable);
    expect(released).toEqual([1]);
  });

  test("fenced and conflict stop everything at once", () => {
    for (const status of [StorageStatus.fenced, StorageStatus.conflict]) {
      const { transport, seen, submit } = setup(3, 2);
      submit();
      const [first, second] = transport.sent as [Sent, Sent];
      transport.answer(first.peer, StorageStatus.ok);
      transport.answer(second.peer, status);
      expect(seen.fatal?.code).toBe(status === StorageStatus.fenced ? "fenced" : "conflict");
      expect(seen.acknowledged).toBe(0);
      submit();
      expect(transport.sent).toHaveLength(0);
    }
  });

  test("no space anywhere is told once, retried, and told when it is over", () => {
    const { clock, transport, seen, submit } = setup(2, 2);
    submit();
    for (const peer of peerIds) transport.answer(peer, StorageStatus.outOfSpace);
    expect(seen.full).toBe(true);
    clock.advance(5_000);
    expect(transport.sent.length).toBeGreaterThan(0);
    expect(seen.full).toBe(true);
    for (const peer of peerIds) transport.answer(peer, StorageStatus.ok);
    expect(seen).toMatchObject({ full: false, acknowledged: 1 });
  });

  test("during a change both sets must be satisfied; after it the new one; a failed change leaves the old", () => {
    const { transport, distributor, seen, submit, members, logSet, place } = setup(3, 2);
    const [a, b, c] = members as [PeerId, PeerId, PeerId];
    const d = peerIds[3] as PeerId;
    distributor.beginTransition(place(logSet([c, d], 2)));
    submit();
    for (const peer of [a, b]) transport.answer(peer, StorageStatus.ok);
    transport.answer(c, StorageStatus.ok);
    expect(seen.acknowledged).toBe(0);
    transport.answer(d, StorageStatus.ok);
    expect(seen.acknowledged).toBe(1);
    submit();
    transport.answer(c, StorageStatus.ok);
    transport.answer(d, StorageStatus.ok);
    transport.answer(a, StorageStatus.unreachable);
    transport.answer(b, StorageStatus.unreachable);
    expect(seen.acknowledged).toBe(1);
    distributor.endTransition(true);
    expect(seen.acknowledged).toBe(2);
    distributor.beginTransition(place(logSet([a, b], 2)));
    submit();
    transport.answer(c, StorageStatus.ok);
    transport.answer(d, StorageStatus.ok);
    expect(seen.acknowledged).toBe(2);
    distributor.endTransition(false);
    expect(seen.acknowledged).toBe(3);
  });

  test("a block durable in the old set before a change, but not yet acknowledged, needs the new set too", () => {
    const { transport, distributor, seen, submit, members, logSet, place } = setup(2, 2);
    submit();
    submit();
    const [, , third, fourth] = transport.sent as [Sent, Sent, Sent, Sent];
    transport.sent = transport.sent.slice(0, 2);
    for (const { peer, request } of [third, fourth])
      request.done(peer, incarnationOf(peer), StorageStatus.ok);
    const d = peerIds[3] as PeerId;
    distributor.beginTransition(place(logSet([members[0] as PeerId, d], 2)));
    for (const peer of members) transport.answer(peer, StorageStatus.ok);
    expect(seen.acknowledged).toBe(0);
    transport.answer(d, StorageStatus.ok);
    expect(seen.acknowledged).toBe(2);
  });

  test("INode blocks go to the next set while there is one, whatever the old set does", () => {
    const { transport, distributor, logSet, place, members } = setup(2, 2);
    const [a] = members as [PeerId];
    distributor.beginTransition(place(logSet([a], 1)));
    const block = new DistributedBlock();
    block.ref = { kind: BlockKind.inode, volumeId: asVolumeId(1), epoch: asEpoch(5), index: 1 };
    block.ordered = false;
    let durable = false;
    block.acknowledged = () => {
      durable = true;
    };
    distributor.submit(block);
    expect(transport.sent.map((one) => one.peer)).toEqual([a]);
    transport.answer(a, StorageStatus.ok);
    expect(durable).toBe(true);
  });

  test("a transport that answers from inside the call is no trouble", () => {
    const { transport, seen, submit, released } = setup(5, 2);
    transport.inline = (peer) => (peer === peerIds[0] ? StorageStatus.unreachable : StorageStatus.ok);
    for (let index = 0; index < 100; index++) submit();
    expect(seen.acknowledged).toBe(100);
    expect(released).toHaveLength(100);
  });

  test("what is in flight is bounded; the rest goes out in order as room comes", () => {
    const { transport, seen, submit } = setup(3, 2);
    for (let index = 0; index < 100; index++) submit();
    expect(transport.sent).toHaveLength(128);
    while (transport.sent.length > 0) for (const peer of peerIds) transport.answer(peer, StorageStatus.ok);
    expect(seen.acknowledged).toBe(100);
  });

  test("whatever peers answer, acknowledged means: stored by W members of every set in force, all before it too", () => {
    const action = fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({ kind: fc.constant("answer" as const), at: fc.nat(20), ok: fc.nat(9) }),
      },
      { weight: 4, arbitrary: fc.record({ kind: fc.constant("submit" as const) }) },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant("advance" as const), ms: fc.nat(900) }) },
      {
        weight: 1,
        arbitrary: fc.record({
          kind: fc.constant("begin" as const),
          members: fc.subarray(peerIds, { minLength: 1 }),
          width: fc.integer({ min: 1, max: 3 }),
          life: fc.nat(1),
        }),
      },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant("end" as const), committed: fc.boolean() }) },
    );
    fc.assert(
      fc.property(fc.array(action, { maxLength: 120 }), (actions) => {
        const { clock, transport, distributor, seen, submit, logSet, place } = setup(3, 2);
        const stored = new Map<number, Set<string>>();
        let current = logSet(peerIds.slice(0, 3), 2);
        let next: LogSet | undefined;
        let checked = 0;
        const holds = (index: number, set: LogSet): boolean => {
          const names = stored.get(index) ?? new Set();
          return set.members.filter((one) => names.has(one.peerId + one.incarnation)).length >= set.width;
        };
        // Checked at every step, because the sets in force may have changed by the next.
        const check = (): void => {
          for (; checked < seen.acknowledged; checked++) {
            expect(holds(checked + 1, current)).toBe(true);
            if (next) expect(holds(checked + 1, next)).toBe(true);
          }
        };
        for (const one of actions) {
          if (one.kind === "submit") submit();
          else if (one.kind === "advance") clock.advance(one.ms);
          else if (one.kind === "begin" && !next) {
            next = logSet(one.members, Math.min(one.width, one.members.length), {
              [peerIds[0] as PeerId]: one.life,
            });
            distributor.beginTransition(place(next));
          } else if (one.kind === "end" && next) {
            // What the old sets acknowledged was checked; the rest is judged by the set that stays.
            if (one.committed) current = next;
            next = undefined;
            distributor.endTransition(one.committed);
          } else if (one.kind === "answer" && transport.sent.length > 0) {
            const { peer, request } = transport.sent.splice(one.at % transport.sent.length, 1)[0] as Sent;
            const status =
              one.ok < 7
                ? StorageStatus.ok
                : one.ok < 8
                  ? StorageStatus.outOfSpace
                  : StorageStatus.unreachable;
            const life = peer === peerIds[0] && one.ok === 6 ? 1 : 0;
            const index = (request as DistributedBlock).ref?.index ?? 0;
            if (status === StorageStatus.ok) {
              const names = stored.get(index) ?? new Set<string>();
              names.add(peer + incarnationOf(peer, life));
              stored.set(index, names);
            }
            request.done(peer, status === StorageStatus.unreachable ? "" : incarnationOf(peer, life), status);
          }
          check();
        }
      }),
      { numRuns: 300 },
    );
  });
});
