/** Which blocks an opener adopts, and when it must refuse (rule R3). */
import { describe, expect, test } from "bun:test";
import {
  type Incarnation,
  parseClusterId,
  type PeerId,
  parseIncarnation,
  parsePeerId,
} from "../../../../src/base";
import { type FenceReply, type Head, StorageStatus, type TailBlock } from "../../../../src/engine";
import { planAdoption, VolumeError } from "../../../../src/engine/volume";

const clusterId = parseClusterId("00000000-0000-4000-8000-00000000000c");
const peer = (digit: number): PeerId => parsePeerId(`${String(digit).repeat(8)}-0000-4000-8000-000000000000`);
const life = (digit: number, count = 0): Incarnation =>
  parseIncarnation(`${String(digit).repeat(15)}${count}`);

function head(memberDigits: readonly number[], width: number, dataIndex = 10): Head {
  const members = memberDigits.map((digit) => ({ peerId: peer(digit), incarnation: life(digit) }));
  return {
    root: null,
    epoch: 7,
    dataIndex,
    inodeIndex: 1,
    sizeBytes: 4096,
    log: { ringVersion: 1, members, width },
  };
}

const block = (index: number, suspect = false, headerCrc = index * 3): TailBlock => ({
  index,
  headerCrc,
  lengthBytes: 5000,
  suspect,
});

function reply(digit: number, tail: readonly TailBlock[], more: Partial<FenceReply> = {}): FenceReply {
  return {
    clusterId,
    peerId: peer(digit),
    incarnation: life(digit),
    status: StorageStatus.ok,
    epochKnown: 8,
    tail,
    ...more,
  };
}

const plan = (state: Head, replies: readonly FenceReply[], acceptLoss = false) =>
  planAdoption("db", 8, state, replies, acceptLoss, (id) => id.slice(0, 2));

function refusal(state: Head, replies: readonly FenceReply[]): string {
  try {
    plan(state, replies);
  } catch (error) {
    if (error instanceof VolumeError) return error.code;
    throw error;
  }
  return "opened";
}

describe("planAdoption", () => {
  test("after a clean detach nobody is needed", () => {
    expect(plan(head([], 0), [])).toEqual({ blocks: [], givenUp: [] });
  });

  test("needs more than |S| - W fenced members of the recorded incarnation", () => {
    const state = head([1, 2, 3], 2);
    expect(refusal(state, [])).toBe("tail-unreachable");
    expect(refusal(state, [reply(1, [])])).toBe("tail-unreachable");
    expect(refusal(state, [reply(1, []), reply(2, [])])).toBe("opened");
    expect(refusal(state, [reply(1, []), reply(2, [], { incarnation: life(2, 1) })])).toBe(
      "tail-unreachable",
    );
    expect(refusal(state, [reply(1, []), reply(4, []), reply(5, [])])).toBe("tail-unreachable");
    expect(refusal(state, [reply(1, []), reply(2, [], { status: StorageStatus.unavailable })])).toBe(
      "tail-unreachable",
    );
  });

  test("adopts from dataIndex + 1 up to the first gap, from whoever has a good copy", () => {
    const state = head([1, 2, 3], 2);
    const found = plan(state, [
      reply(1, [block(11), block(13), block(14)]),
      reply(2, [block(11), block(12)]),
      // Not of the set: it may still have a copy that rebalance made.
      reply(4, [block(13), block(15)], { incarnation: life(4) }),
    ]);
    expect(found.blocks.map((one) => one.index)).toEqual([11, 12, 13, 14, 15]);
    expect(found.blocks[0]?.holders.map((one) => one.peerId)).toEqual([peer(1), peer(2)]);
    const cut = plan(state, [reply(1, [block(12)]), reply(2, [block(13)])]);
    expect(cut.blocks).toEqual([]);
  });

  test("a suspect copy is neither a copy nor a denial", () => {
    const state = head([1, 2, 3], 2);
    expect(refusal(state, [reply(1, [block(11, true)]), reply(2, [])])).toBe("tail-uncertain");
    expect(plan(state, [reply(1, [block(11, true)]), reply(2, []), reply(3, [])]).blocks).toEqual([]);
    expect(plan(state, [reply(1, [block(11, true)]), reply(2, [block(11)])]).blocks).toHaveLength(1);
    expect(plan(state, [reply(1, [block(11, true)]), reply(2, [])], true)).toEqual({
      blocks: [],
      givenUp: [peer(1)],
    });
  });

  test("two contents under one name are never opened", () => {
    expect(refusal(head([1, 2], 2), [reply(1, [block(11)]), reply(2, [block(11, false, 99)])])).toBe(
      "conflict",
    );
  });

  test("a peer that knows a newer epoch stops the open", () => {
    const state = head([1, 2], 1);
    expect(refusal(state, [reply(1, []), reply(2, [], { epochKnown: 9 })])).toBe("metadata-rolled-back");
    expect(refusal(state, [reply(1, []), reply(2, [], { status: StorageStatus.fenced })])).toBe(
      "metadata-rolled-back",
    );
  });

  test("a peer that has seen a writer of which the metadata do not know stops the open, and names its epoch", () => {
    const replies = [reply(1, []), reply(2, [], { status: StorageStatus.fenced, epochKnown: 5 })];
    expect(refusal(head([1, 2], 1), replies)).toBe("metadata-rolled-back");
    expect(() => plan(head([1, 2], 1), replies)).toThrow(
      "has seen a writer of epoch 5, which the metadata does not know of",
    );
    const older = [reply(1, []), reply(2, [], { status: StorageStatus.fenced, epochKnown: 7 })];
    expect(() => plan(head([1, 2], 1), older)).toThrow(
      "has seen a newer head of epoch 7, which the metadata does not know of",
    );
  });

  test("accepting loss goes on with whoever answers and names whom it gave up", () => {
    const state = head([1, 2, 3], 2);
    const found = plan(state, [reply(3, [block(11)])], true);
    expect(found.blocks.map((one) => one.index)).toEqual([11]);
    expect(found.givenUp).toEqual([peer(1), peer(2)]);
  });

  test("a refusal names the peers and what to do", () => {
    expect(() => plan(head([1, 2, 3], 2), [reply(1, [])])).toThrow(
      'Cannot open volume "db": its newest blocks may be only on 22, 33, and 1 of the 2 peers needed answer; start these peers, or give up what only they hold with --accept-loss',
    );
  });
});
