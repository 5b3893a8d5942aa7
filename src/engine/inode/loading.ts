/**
 * Bringing nodes of the trees into memory: one read per node however many wait for it, and requests that go on
 * until everything they need is there at once. A node that an unfinished request walked over is not evicted, so a
 * request always ends, however small the budget is.
 */
import { StorageStatus } from "../ports";
import { decodeNode } from "./codec";
import { InodeError } from "./errors";
import type { Leaf, Place, TreeNode } from "./nodes";
import type { RadixTree } from "./tree";
import type { Loaded, NodeReader } from "./types";

/** Reads in flight for one request. */
const READS_PER_REQUEST_MAX = 64;
const KEY_SPAN = 2 ** 34;
const LEVEL_SPAN = 8;

// biome-ignore lint/suspicious/noExplicitAny: a tree of either kind of leaf
export type AnyTree = RadixTree<any>;

/**
 * Walks over what is needed and calls `want` with the tree whose `lacking` names a node to be read, until it
 * returns false. Everything walked over is marked with `usedAt`.
 */
export type WalkNeeds = (want: (tree: AnyTree) => boolean, usedAt: number) => void;

interface LoadRequest {
  readonly serial: number;
  readonly needs: WalkNeeds;
  readonly done: Loaded;
  reading: number;
  /** Inside `advance`: a read that ends at once must not enter it again. */
  advancing: boolean;
  /** Inside `request`: an end is told by its return value. */
  starting: boolean;
  failure: StorageStatus;
}

export class NodeLoader {
  private readonly reads = new Map<number, LoadRequest[]>();
  private readonly active = new Set<LoadRequest>();
  private serial = 1;
  private wanted = false;

  constructor(
    private readonly reader: NodeReader,
    /** Called when nodes came in or stopped being needed: the time to keep the byte budget. */
    private readonly onChange: () => void,
  ) {}

  /** Nodes used at or after this serial may be needed by an unfinished request. */
  get oldestSerial(): number {
    for (const request of this.active) return request.serial;
    return this.serial + 1;
  }

  /** True when everything is in memory now, and `done` will not be called; else see `Loaded`. */
  request(needs: WalkNeeds, done: Loaded): boolean {
    if (this.isComplete(needs)) return true;
    this.serial += 1;
    const request: LoadRequest = {
      serial: this.serial,
      needs,
      done,
      reading: 0,
      advancing: false,
      starting: true,
      failure: StorageStatus.ok,
    };
    this.active.add(request);
    this.advance(request);
    request.starting = false;
    return !this.active.has(request) && request.failure === StorageStatus.ok;
  }

  private isComplete(needs: WalkNeeds): boolean {
    this.wanted = false;
    needs(this.noteWanted, this.serial);
    return !this.wanted;
  }

  private readonly noteWanted = (): boolean => {
    this.wanted = true;
    return false;
  };

  private advance(request: LoadRequest): void {
    request.advancing = true;
    for (;;) {
      let wanted = 0;
      request.needs((tree) => {
        wanted += 1;
        this.read(tree, request);
        return request.failure === StorageStatus.ok && request.reading < READS_PER_REQUEST_MAX;
      }, this.serial);
      if (request.reading > 0) break;
      if (wanted > 0 && request.failure === StorageStatus.ok) continue;
      this.finish(request);
      break;
    }
    request.advancing = false;
  }

  private finish(request: LoadRequest): void {
    this.active.delete(request);
    // Told by the return value: nothing may be evicted before the caller acted on it.
    if (request.starting && request.failure === StorageStatus.ok) return;
    request.done(request.failure);
    this.onChange();
  }

  private read(tree: AnyTree, request: LoadRequest): void {
    const { level, key, place } = tree.lacking;
    const readKey = (tree.topLevel * LEVEL_SPAN + level) * KEY_SPAN + key;
    const waiting = this.reads.get(readKey);
    if (waiting !== undefined) {
      if (waiting.includes(request)) return;
      waiting.push(request);
      request.reading += 1;
      return;
    }
    this.reads.set(readKey, [request]);
    request.reading += 1;
    const pointer = place.toPointer();
    const nodePlace = place.clone();
    this.reader.readNode(pointer, (status, buffer, offsetBytes) => {
      const waiters = this.reads.get(readKey) ?? [];
      this.reads.delete(readKey);
      const outcome =
        status === StorageStatus.ok && buffer !== undefined
          ? install(tree, level, key, nodePlace, buffer.view, offsetBytes, this.serial)
          : status;
      for (const waiter of waiters) this.arrived(waiter, outcome);
      this.onChange();
    });
  }

  private arrived(request: LoadRequest, outcome: StorageStatus): void {
    request.reading -= 1;
    if (outcome !== StorageStatus.ok) request.failure = outcome;
    if (request.reading > 0 || request.advancing) return;
    if (request.failure === StorageStatus.ok) this.advance(request);
    else this.finish(request);
  }
}

/** A node that is wanted no more is dropped: whoever waits looks again. */
function install(
  tree: AnyTree,
  level: number,
  key: number,
  place: Place,
  view: DataView,
  at: number,
  usedAt: number,
): StorageStatus {
  try {
    const node: TreeNode = decodeNode<Leaf>(tree.kind, level, key, place, view, at);
    node.usedAt = usedAt;
    tree.install(node);
    return StorageStatus.ok;
  } catch (error) {
    if (error instanceof InodeError) return StorageStatus.corrupt;
    throw error;
  }
}
