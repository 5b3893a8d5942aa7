/**
 * Which pages two roots map differently: for a listing of what changed between two snapshots, and for exports of
 * the difference. Only maps are compared, no data: subtrees that both share are one pointer, equal, and skipped, so
 * the work follows the change, not the volume.
 *
 * A page counts as changed when it lies elsewhere. Cleaning moves pages without changing them, so the answer may
 * name pages whose bytes are the same; it never leaves out one whose bytes differ, because a slot of a block is
 * written once. Equal locations mean equal blocks only in a common past (see references.ts), so BlockRefs are
 * compared too.
 */
import type { NodePointer } from "../head";
import { decodeNode, MAP_TREE } from "./codec";
import { FAN_OUT, LEAF_ENTRIES, type MapLeaf, type Place, type TreeNode } from "./nodes";
import { readNode } from "./reading";
import { childPlace, nameBlock, openRootView, type RootView, samePosition, sameRef } from "./root-view";
import { lsnOf, type NodeReader } from "./types";

/** Pages that `after` maps otherwise than `before` did. */
export interface PageDifference {
  readonly firstPage: number;
  readonly pageCount: number;
  /** `after` has nothing there, and `before` had; else `after` has data there. */
  readonly isHole: boolean;
}

/** Pairs of nodes read ahead of the one being compared. */
const READ_AHEAD = 8;

interface Pair {
  readonly key: number;
  readonly after: Place | undefined;
  readonly before: Place | undefined;
}

interface ReadPair {
  readonly key: number;
  readonly after: TreeNode | undefined;
  readonly before: TreeNode | undefined;
}

/**
 * Yields the differences in order of pages, merged where they touch and are of one kind. Either root may be null
 * (nothing is mapped). Rejects with InodeError "node-unreadable", "node-missing" or "bad-node".
 */
export async function* diffRoots(
  after: NodePointer | null,
  before: NodePointer | null,
  reader: NodeReader,
): AsyncGenerator<PageDifference, void, undefined> {
  if (after !== null && before !== null && samePosition(after, before)) return;
  const differences = new Differences(
    reader,
    await openRootView(reader, after),
    await openRootView(reader, before),
  );
  let pending: PageDifference | undefined;
  for await (const next of differences.all()) {
    if (
      pending !== undefined &&
      pending.isHole === next.isHole &&
      pending.firstPage + pending.pageCount === next.firstPage
    ) {
      pending = { ...pending, pageCount: pending.pageCount + next.pageCount };
      continue;
    }
    if (pending !== undefined) yield pending;
    pending = next;
  }
  if (pending !== undefined) yield pending;
}

class Differences {
  constructor(
    private readonly reader: NodeReader,
    private readonly after: RootView | undefined,
    private readonly before: RootView | undefined,
  ) {}

  all(): AsyncGenerator<PageDifference, void, undefined> {
    const top = { key: 0, after: this.after?.record.mapTop, before: this.before?.record.mapTop };
    return this.below(MAP_TREE.interiorLevels, isSame(top) ? [] : [top]);
  }

  /** The differences below pairs of nodes of one level, which come in order and are not the same. */
  private async *below(
    level: number,
    pairs: readonly Pair[],
  ): AsyncGenerator<PageDifference, void, undefined> {
    const ahead: Promise<ReadPair>[] = [];
    let next = 0;
    while (next < pairs.length || ahead.length > 0) {
      while (next < pairs.length && ahead.length < READ_AHEAD) {
        const reading = this.readPair(level, pairs[next] as Pair);
        // Its failure is met when its turn comes.
        reading.catch(() => undefined);
        ahead.push(reading);
        next += 1;
      }
      const pair = (await ahead.shift()) as ReadPair;
      if (level === 0)
        yield* this.leaves(pair.key, pair.after as MapLeaf | undefined, pair.before as MapLeaf | undefined);
      else yield* this.below(level - 1, childrenOf(pair));
    }
  }

  private async readPair(level: number, pair: Pair): Promise<ReadPair> {
    const [after, before] = await Promise.all([
      this.read(level, pair.key, pair.after),
      this.read(level, pair.key, pair.before),
    ]);
    return { key: pair.key, after, before };
  }

  private async read(level: number, key: number, place: Place | undefined): Promise<TreeNode | undefined> {
    if (place === undefined) return undefined;
    return readNode(this.reader, place.toPointer(), (view, at) =>
      decodeNode(MAP_TREE, level, key, place, view, at),
    );
  }

  private *leaves(
    key: number,
    after: MapLeaf | undefined,
    before: MapLeaf | undefined,
  ): Generator<PageDifference, void, undefined> {
    let first = 0;
    let count = 0;
    let isHole = false;
    for (let entry = 0; entry < LEAF_ENTRIES; entry += 1) {
      const now = after?.values[entry] ?? 0;
      const then = before?.values[entry] ?? 0;
      if (!this.differs(now, then)) continue;
      if (count > 0 && first + count === entry && isHole === (now === 0)) {
        count += 1;
        continue;
      }
      if (count > 0) yield { firstPage: key * LEAF_ENTRIES + first, pageCount: count, isHole };
      first = entry;
      count = 1;
      isHole = now === 0;
    }
    if (count > 0) yield { firstPage: key * LEAF_ENTRIES + first, pageCount: count, isHole };
  }

  private differs(now: number, then: number): boolean {
    if (now !== then) return true;
    if (now === 0) return false;
    const lsn = lsnOf(now);
    return !sameRef(nameBlock(this.after, lsn), nameBlock(this.before, lsn));
  }
}

function isSame(pair: Pair): boolean {
  const { after, before } = pair;
  if (after === undefined || before === undefined) return after === before;
  return samePosition(after, before);
}

function childrenOf(pair: ReadPair): Pair[] {
  const pairs: Pair[] = [];
  for (let slot = 0; slot < FAN_OUT; slot += 1) {
    const child = {
      key: pair.key * FAN_OUT + slot,
      after: childPlace(pair.after, slot),
      before: childPlace(pair.before, slot),
    };
    if (!isSame(child)) pairs.push(child);
  }
  return pairs;
}
