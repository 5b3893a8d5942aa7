/**
 * Writing a frozen map: every dirty node after its children, packed into INode blocks in the order they come, the
 * root last. A block is sent off as soon as the next node does not fit, so that memory stays at one block and the
 * blocks travel while the rest is encoded.
 */
import { assert } from "../../base";
import { BLOCK_HEADROOM_BYTES } from "../block";
import type { NodePointer } from "../head";
import { encodedBytesMax } from "./codec";
import { type EpochChunk, encodeChunk, encodedChunkBytes } from "./epochs";
import { Interior, Place, type TreeNode } from "./nodes";
import { encodedRootBytes, encodeRoot, type RootRecord } from "./root";
import type { InodeSink, InodeTarget } from "./types";

/** Packs nodes into INode blocks. */
class NodePacker {
  lastIndex = 0;
  writtenBytes = 0;
  private target: InodeTarget | undefined;
  private filled = 0;

  constructor(private readonly sink: InodeSink) {}

  hasRoom(lengthBytes: number): boolean {
    return this.target !== undefined && this.filled + lengthBytes <= this.sink.payloadBytesMax;
  }

  async nextBlock(): Promise<void> {
    this.finish();
    this.target = await this.sink.begin();
    this.lastIndex = this.target.index;
  }

  finish(): void {
    if (this.target === undefined) return;
    this.sink.finish(this.target, this.filled);
    this.target = undefined;
    this.filled = 0;
  }

  /** Encodes a node into the open block and notes in `place` where it is. Returns by how much it grew. */
  put(place: Place, encode: (view: DataView, at: number) => number): number {
    const { target } = this;
    assert(target !== undefined, "a node is packed into no block");
    const lengthBytes = encode(target.buffer.view, BLOCK_HEADROOM_BYTES + this.filled);
    const grownBytes = lengthBytes - place.lengthBytes;
    place.volumeId = this.sink.volumeId;
    place.epoch = this.sink.epoch;
    place.index = target.index;
    place.offsetBytes = this.filled;
    place.lengthBytes = lengthBytes;
    this.filled += lengthBytes;
    this.writtenBytes += lengthBytes;
    assert(this.filled <= this.sink.payloadBytesMax, "a node is larger than it said");
    return grownBytes;
  }
}

/** One of the two trees as it was frozen. */
export interface FrozenTree {
  encode(node: TreeNode, view: DataView, at: number): number;
  readonly root: Interior | null;
  /** Nodes with a stamp above this are to be written. */
  readonly committedStamp: number;
  /** Told by how much the bytes of the tree's nodes grew. */
  grew(bytes: number): void;
}

interface Frame {
  readonly node: Interior;
  slot: number;
}

/** Walks dirty nodes depth first without recursion, children before parents. */
async function writeTree(tree: FrozenTree, packer: NodePacker): Promise<void> {
  const { root, committedStamp } = tree;
  if (root === null || root.stamp <= committedStamp) return;
  const putNode = (node: TreeNode): void => {
    const grown = packer.put(node.place, (view, at) => tree.encode(node, view, at));
    if (!node.place.removed) tree.grew(grown);
  };
  const stack: Frame[] = [{ node: root, slot: 0 }];
  while (stack.length > 0) {
    const frame = stack[stack.length - 1] as Frame;
    const child = nextDirtyChild(frame, committedStamp);
    if (child instanceof Interior) {
      stack.push({ node: child, slot: 0 });
      continue;
    }
    if (child === null) stack.pop();
    const node = child ?? frame.node;
    if (!packer.hasRoom(encodedBytesMax(node))) await packer.nextBlock();
    putNode(node);
  }
}

function nextDirtyChild(frame: Frame, committedStamp: number): TreeNode | null {
  const { children } = frame.node;
  while (frame.slot < children.length) {
    const child = children[frame.slot] ?? null;
    frame.slot += 1;
    if (child !== null && child.stamp > committedStamp) return child;
  }
  return null;
}

export interface CheckpointPlan {
  readonly map: FrozenTree;
  readonly use: FrozenTree;
  readonly epochChunks: readonly EpochChunk[];
  readonly committedStamp: number;
  epochBytesGrew(bytes: number): void;
  /** Called when all but the root is written. */
  makeRoot(writtenBytes: number): RootRecord;
}

export interface CheckpointResult {
  readonly root: NodePointer;
  /** Index of the last INode block written. */
  readonly lastIndex: number;
}

export async function writeCheckpoint(plan: CheckpointPlan, sink: InodeSink): Promise<CheckpointResult> {
  const packer = new NodePacker(sink);
  await writeTree(plan.map, packer);
  await writeTree(plan.use, packer);
  for (const [key, chunk] of plan.epochChunks.entries()) {
    if (chunk.stamp <= plan.committedStamp) continue;
    if (!packer.hasRoom(encodedChunkBytes(chunk))) await packer.nextBlock();
    const grown = packer.put(chunk.place, (view, at) => encodeChunk(chunk, key, view, at));
    if (!chunk.place.removed) plan.epochBytesGrew(grown);
  }
  const root = plan.makeRoot(packer.writtenBytes);
  if (!packer.hasRoom(encodedRootBytes(root))) await packer.nextBlock();
  const place = new Place();
  packer.put(place, (view, at) => encodeRoot(root, view, at));
  packer.finish();
  return { root: place.toPointer(), lastIndex: packer.lastIndex };
}
