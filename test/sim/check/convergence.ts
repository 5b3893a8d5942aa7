/**
 * What must hold once faults are over and nobody writes (invariants 6 and 7): every block that a head or snapshot
 * references has exactly R good copies, on the peers where the ring wants it, and no other block is left anywhere.
 */
import { type BlockRef, formatBlockRef, heapBuffer, type NativeBuffer, type PeerId } from "../../../src/base";
import type { CollectionView, NodePointer } from "../../../src/engine";
import { StorageStatus } from "../../../src/engine";
import { type NodeReader, walkReferences } from "../../../src/engine/inode";
import type { SegmentStore } from "../../../src/engine/store";
import { buildRing, copyCount, type RingSpec } from "../../../src/ring";
import type { SimPeer } from "../actors/peer";

interface Copies {
  readonly ref: BlockRef;
  readonly peers: PeerId[];
  readonly suspects: PeerId[];
}

/** Reads nodes from whichever store has them, behind the protocol's back. */
class StoreReader implements NodeReader {
  constructor(private readonly stores: readonly SegmentStore[]) {}

  readNode(
    pointer: NodePointer,
    done: (status: StorageStatus, buffer: NativeBuffer | undefined, offsetBytes: number) => void,
  ): void {
    const ref = { kind: 2 as const, volumeId: pointer.volumeId, epoch: pointer.epoch, index: pointer.index };
    const firstSlot = Math.floor(pointer.offsetBytes / 4096);
    const slotCount = Math.ceil((pointer.offsetBytes + pointer.lengthBytes) / 4096) - firstSlot;
    for (const store of this.stores) {
      let found = false;
      store.read({
        ref,
        firstSlot,
        slotCount,
        done: (status, source, offset, lengthBytes, _check, release) => {
          if (status === StorageStatus.ok && source !== undefined) {
            found = true;
            const copy = heapBuffer(lengthBytes);
            copy.bytes.set(source.bytes.subarray(offset, offset + lengthBytes));
            done(StorageStatus.ok, copy, pointer.offsetBytes - firstSlot * 4096);
          }
          release?.();
        },
      });
      if (found) return;
    }
    done(StorageStatus.notFound, undefined, 0);
  }
}

/** The first thing that is not as it should be, or undefined. */
export async function findUnconverged(
  peers: readonly SimPeer[],
  view: CollectionView,
  ringSpec: RingSpec,
): Promise<string | undefined> {
  const stores: SegmentStore[] = [];
  for (const peer of peers) {
    if (peer.store === undefined) return `${peer.name} does not run`;
    stores.push(peer.store);
  }
  const referenced = await referencedBlocks(view, new StoreReader(stores));
  if (typeof referenced === "string") return referenced;
  const held = heldBlocks(peers);
  const ring = buildRing(ringSpec);
  const nameOf = (peerId: PeerId): string => peers.find((peer) => peer.peerId === peerId)?.name ?? peerId;
  const order = new Uint16Array(ring.peers.length);
  for (const [name, ref] of referenced) {
    const count = ring.permutation(ref, copyCount(ringSpec), order);
    const desired = Array.from(order.subarray(0, count), (index) => ring.peers[index] as PeerId);
    const copies = held.get(name);
    if (copies === undefined) return `${name} is referenced, and nobody has it`;
    if (copies.suspects.length > 0)
      return `${name} has a bad copy on ${copies.suspects.map(nameOf).join(", ")}`;
    const missing = desired.filter((peer) => !copies.peers.includes(peer));
    if (missing.length > 0) return `${name} is missing on ${missing.map(nameOf).join(", ")}`;
    const surplus = copies.peers.filter((peer) => !desired.includes(peer));
    // A ring that asks for more copies than it has peers lets nobody drop one.
    if (surplus.length > 0 && count === ringSpec.replication)
      return `${name} has copies too many, on ${surplus.map(nameOf).join(", ")}`;
  }
  for (const [name, copies] of held)
    if (!referenced.has(name))
      return `${name} is referenced by nothing, and still on ${[...copies.peers, ...copies.suspects].map(nameOf).join(", ")}`;
  return undefined;
}

async function referencedBlocks(
  view: CollectionView,
  reader: NodeReader,
): Promise<Map<string, BlockRef> | string> {
  const referenced = new Map<string, BlockRef>();
  const add = (ref: BlockRef): void => {
    referenced.set(formatBlockRef(ref), ref);
  };
  for (const volume of view.volumes)
    for (const root of [volume.head.root, ...volume.snapshots.map((snapshot) => snapshot.root)])
      try {
        await walkReferences(root, reader, { data: add, inode: add });
      } catch (error) {
        return error instanceof Error ? error.message : String(error);
      }
  return referenced;
}

function heldBlocks(peers: readonly SimPeer[]): Map<string, Copies> {
  const held = new Map<string, Copies>();
  for (const { store, peerId } of peers) {
    let cursor: string | undefined;
    do {
      const reply = store?.list({ limit: 4096, ...(cursor !== undefined && { cursor }) });
      for (const { ref, suspect } of reply?.blocks ?? []) {
        const name = formatBlockRef(ref);
        const copies = held.get(name) ?? { ref, peers: [], suspects: [] };
        (suspect ? copies.suspects : copies.peers).push(peerId);
        held.set(name, copies);
      }
      cursor = reply?.cursor;
    } while (cursor !== undefined);
  }
  return held;
}
