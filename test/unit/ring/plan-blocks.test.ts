import { expect, test } from "bun:test";
import { buildRing, createRing, nextRing, planBlocks } from "../../../src/ring";
import { dataRef, member, members } from "./support";

test("planBlocks counts the very blocks that are given, by their bytes", () => {
  const older = createRing({ replication: 2, members: members(3) });
  const newer = nextRing(older, { kind: "add", members: [member(3), member(4)] });
  const blocks = Array.from({ length: 500 }, (_, index) => ({
    ref: dataRef(1 + (index % 3), 7, index + 1),
    lengthBytes: 1_000 + index,
  }));
  const [before, after] = [buildRing(older), buildRing(newer)];
  const row = new Uint16Array(5);
  const peersOf = (ring: typeof before, ref: (typeof blocks)[number]["ref"]) =>
    Array.from(row.subarray(0, ring.permutation(ref, 2, row)), (index) => ring.peers[index]);
  let moved = 0;
  for (const { ref, lengthBytes } of blocks) {
    const had = peersOf(before, ref);
    moved += peersOf(after, ref).filter((peer) => !had.includes(peer)).length * lengthBytes;
  }
  const plan = planBlocks(older, newer, blocks);
  expect(plan.exact).toBe(true);
  expect(plan.dataBytes).toBe(blocks.reduce((sum, block) => sum + block.lengthBytes, 0));
  expect(plan.bytesMoved).toBe(moved);
  expect(plan.peers.reduce((sum, peer) => sum + peer.bytesReceived, 0)).toBe(moved);
});
