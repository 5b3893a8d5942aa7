/** What ctl makes of peers' reports and of their lists of blocks. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { formatBlockRef, type PeerId } from "../../../../src/base";
import {
  collectionProgress,
  isSafeToRemove,
  peerProgress,
  scrubProgress,
} from "../../../../src/commands/ctl/progress";
import { checkPlacement, type HeldBlock, whatStays } from "../../../../src/commands/ctl/ring-check";
import { buildRing, createRing } from "../../../../src/ring";
import { dataRef, members, peerId } from "../../ring/support";

const ring = createRing({ replication: 2, members: members(3) });
const placement = buildRing(ring);

function desired(index: number): PeerId[] {
  const row = new Uint16Array(3);
  const count = placement.permutation(dataRef(1, 5, index), 2, row);
  return Array.from(row.subarray(0, count), (at) => placement.peers[at] as PeerId);
}

function held(change: (index: number, peers: PeerId[]) => PeerId[] = (_, peers) => peers) {
  const blocks = new Map<string, HeldBlock>();
  for (let index = 1; index <= 50; index++) {
    const ref = dataRef(1, 5, index);
    blocks.set(formatBlockRef(ref), {
      ref,
      lengthBytes: 4096,
      holders: change(index, desired(index)),
      damagedAt: [],
    });
  }
  return blocks;
}

const other = (peers: readonly PeerId[]) =>
  [0, 1, 2].map(peerId).find((peer) => !peers.includes(peer)) as PeerId;

describe("checkPlacement", () => {
  test("is content when every block is at its peers and nowhere else", () => {
    expect(checkPlacement(ring, held(), [])).toMatchObject({ blocks: 50, copies: 100, converged: true });
  });

  test("names what is lacking, what is needless and who was not asked", () => {
    const lacking = checkPlacement(
      ring,
      held((index, peers) => (index === 7 ? peers.slice(1) : peers)),
      [],
    );
    expect(lacking.converged).toBe(false);
    expect(lacking.missing).toEqual([
      { block: formatBlockRef(dataRef(1, 5, 7)), peerIds: [desired(7)[0] as PeerId] },
    ]);
    const needless = checkPlacement(
      ring,
      held((index, peers) => (index === 9 ? [...peers, other(peers)] : peers)),
      [],
    );
    expect(needless.converged).toBe(false);
    expect(needless.surplus).toEqual([
      { block: formatBlockRef(dataRef(1, 5, 9)), peerIds: [other(desired(9))] },
    ]);
    expect(checkPlacement(ring, held(), [{ peerId: peerId(1), reason: "it is down" }]).converged).toBe(false);
  });

  test("is not content with fewer peers than copies", () => {
    const short = createRing({ replication: 2, members: members(1) });
    expect(checkPlacement(short, new Map(), []).converged).toBe(false);
  });

  test("whatStays forgets what was put right and what is new", () => {
    const before = checkPlacement(
      ring,
      held((index, peers) => (index <= 2 ? peers.slice(1) : peers)),
      [],
    );
    const now = checkPlacement(
      ring,
      held((index, peers) => (index === 2 || index === 3 ? peers.slice(1) : peers)),
      [],
    );
    const stays = whatStays(before, now);
    expect(stays.missing.map(({ block }) => block)).toEqual([formatBlockRef(dataRef(1, 5, 2))]);
    expect(stays.converged).toBe(false);
    expect(whatStays(stays, checkPlacement(ring, held(), [])).converged).toBe(true);
  });
});

describe("reports of peers", () => {
  test("a peer is safe to remove only by the ring that is in force", () => {
    const report = (ringVersion: unknown, safe: unknown) => ({
      statistics: { rebalance: { ringVersion, isSafeToRemove: safe } },
    });
    expect(isSafeToRemove(report(7, true), 7)).toBe(true);
    expect(isSafeToRemove(report(6, true), 7)).toBe(false);
    expect(isSafeToRemove(report(7, "true"), 7)).toBe(false);
    expect(isSafeToRemove({ statistics: null }, 7)).toBe(false);
  });

  test("whatever another version wrote gives figures or nothing, never an error", () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.constantFrom("rebalance", "scrub", "gc"), (value, job) => {
        for (const statistics of [value, { [job]: value }]) {
          const peer = { statistics };
          for (const report of [peerProgress(peer), scrubProgress(peer), collectionProgress(peer)])
            for (const [name, figure] of Object.entries(report ?? {}))
              if (typeof figure === "number" && !Number.isFinite(figure)) throw new Error(name);
        }
      }),
      { numRuns: 500 },
    );
  });
});
