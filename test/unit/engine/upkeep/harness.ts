/**
 * Peers with real services over memory stores, a transport between them on virtual time that counts what is sent, and
 * metadata that the test sets: enough to run every peer's background jobs side by side.
 */
import {
  asEpoch,
  asVolumeId,
  BlockKind,
  type BlockRef,
  formatBlockRef,
  heapBuffer,
  type PeerId,
  parseClusterId,
  parseIncarnation,
} from "../../../../src/base";
import {
  BLOCK_HEADROOM_BYTES,
  BlockBuilder,
  blockBufferBytes,
  makeBlockSealer,
  PAGE_BYTES,
  type SealedBlock,
  sealInodeBlock,
} from "../../../../src/engine/block";
import type { Head } from "../../../../src/engine/head";
import { PeerService } from "../../../../src/engine/peer";
import {
  type ClusterView,
  type CollectionView,
  type CollectionVolume,
  type ListRequest,
  LOOK_UP,
  type OutgoingPut,
  type OutgoingRead,
  type PeerTransport,
  StorageStatus,
} from "../../../../src/engine/ports";
import { MemoryStore } from "../../../../src/engine/store";
import type { UpkeepPorts } from "../../../../src/engine/upkeep";
import {
  createRing,
  nextRing,
  buildRing,
  copyCount,
  type RingChange,
  type RingSpec,
} from "../../../../src/ring";
import { VirtualTime } from "../../../support/virtual-time";
import { member, peerId } from "../../ring/support";

export const clusterId = parseClusterId("6f1c8d0e-3a77-4f0b-9a53-2f7c1c0d9e11");
export const BLOCK_SIZE_BYTES = 64 * 1024;
const LATENCY_MS = 1;
const UNREACHABLE_MS = 5;

export class HarnessPeer {
  store: MemoryStore;
  service: PeerService;
  down = false;
  /** Puts are refused with out-of-space. */
  full = false;
  /** Of a version that knows no look-ups: to it they are confirmations at another ring version. */
  isOld = false;

  constructor(
    readonly peerId: PeerId,
    private readonly time: VirtualTime,
    private lives = 1,
  ) {
    this.store = this.newStore();
    this.service = new PeerService({ store: this.store, clock: time });
  }

  /** An empty disk: another incarnation. */
  replaceDisk(): void {
    this.lives++;
    this.store = this.newStore();
    this.service = new PeerService({ store: this.store, clock: this.time });
  }

  private newStore(): MemoryStore {
    return new MemoryStore({
      clusterId,
      peerId: this.peerId,
      incarnation: parseIncarnation(`${this.peerId.slice(0, 8)}${this.lives.toString(16).padStart(8, "0")}`),
      capacityBytes: 2 ** 30,
      turns: { afterTurn: (callback) => void this.time.schedule(0, callback) },
    });
  }

  refs(): BlockRef[] {
    return this.store.list({ limit: 1_000_000 }).blocks.map((block) => block.ref);
  }

  names(): string[] {
    return this.refs().map(formatBlockRef).sort();
  }

  /** Flips a byte of the stored payload, as a rotting disk does. */
  rot(ref: BlockRef): void {
    this.store.read({
      ref,
      firstSlot: 0,
      slotCount: 1,
      done: (_status, source, offset, _length, _check, release) => {
        if (source === undefined) throw new Error(`${formatBlockRef(ref)} is not there to rot`);
        source.bytes[offset + 5]! ^= 0xff;
        release?.();
      },
    });
  }
}

export class HarnessTransport implements PeerTransport {
  /** Bytes of whole blocks sent to others. */
  bytesPut = 0;
  putCount = 0;
  readCount = 0;
  confirmCount = 0;

  constructor(
    private readonly harness: Harness,
    private readonly self: PeerId,
  ) {}

  put(to: PeerId, request: OutgoingPut): void {
    if (to !== this.self) this.bytesPut += request.lengthBytes;
    this.putCount++;
    this.later(to, (peer) => {
      if (peer === undefined) return request.done(to, "", StorageStatus.unreachable);
      const { incarnation } = peer.service.identity;
      if (peer.full) return request.done(to, incarnation, StorageStatus.outOfSpace);
      peer.service.put({ ...request, done: (status) => request.done(to, incarnation, status) });
    });
  }

  read(to: PeerId, request: OutgoingRead): void {
    this.readCount++;
    this.later(to, (peer) => {
      if (peer === undefined) return request.done(to, StorageStatus.unreachable, 0, 0);
      peer.service.read({
        ref: request.ref,
        firstSlot: request.firstSlot,
        slotCount: request.slotCount,
        done: (status, source, offset, lengthBytes, check, release) => {
          if (source !== undefined)
            request.destination.bytes.set(
              source.bytes.subarray(offset, offset + lengthBytes),
              request.destinationOffset,
            );
          release?.();
          request.done(to, status, lengthBytes, check);
        },
      });
    });
  }

  withdrawRead(): boolean {
    return false;
  }

  fence(to: PeerId, request: Parameters<PeerTransport["fence"]>[1]): ReturnType<PeerTransport["fence"]> {
    return this.ask(to, (peer) => peer.service.fence(request));
  }

  list(to: PeerId, request: ListRequest): ReturnType<PeerTransport["list"]> {
    return this.ask(to, (peer) => peer.service.list(request));
  }

  confirm(
    to: PeerId,
    request: Parameters<PeerTransport["confirm"]>[1],
  ): ReturnType<PeerTransport["confirm"]> {
    this.confirmCount++;
    return this.ask(to, (peer) =>
      peer.service.confirm(
        peer.isOld && request.ringVersion === LOOK_UP ? { ...request, ringVersion: LOOK_UP - 1 } : request,
      ),
    );
  }

  statistics(to: PeerId): ReturnType<PeerTransport["statistics"]> {
    return this.ask(to, (peer) => peer.service.statistics());
  }

  isLikelyUp(to: PeerId): boolean {
    return !this.harness.peer(to).down;
  }

  private ask<T>(to: PeerId, call: (peer: HarnessPeer) => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.later(to, (peer) => {
        if (peer === undefined) reject(new Error(`peer ${to} is unreachable`));
        else call(peer).then(resolve, reject);
      });
    });
  }

  private later(to: PeerId, serve: (peer: HarnessPeer | undefined) => void): void {
    const { time } = this.harness;
    const peer = this.harness.peer(to);
    time.schedule(peer.down ? UNREACHABLE_MS : LATENCY_MS, () => serve(peer.down ? undefined : peer));
  }
}

export class Harness {
  readonly time = new VirtualTime();
  readonly peers: HarnessPeer[] = [];
  readonly transports = new Map<PeerId, HarnessTransport>();
  ring: RingSpec;
  volumes: CollectionVolume[] = [];
  volumeIdLast = 0;
  damage: CollectionView["damage"] = [];
  collectionViews = 0;
  private readonly listeners = new Set<(view: ClusterView) => void>();

  constructor(peerCount: number, replication: number, zone: (index: number) => string = () => "") {
    for (let index = 0; index < peerCount; index++) this.addPeer(index);
    this.ring = createRing({
      replication,
      members: this.peers.map((_, index) => member(index, 100, zone(index))),
    });
  }

  /** A peer outside the ring, as a freshly started daemon is. */
  addPeer(index = this.peers.length): HarnessPeer {
    const peer = new HarnessPeer(peerId(index), this.time);
    this.peers.push(peer);
    return peer;
  }

  peer(id: PeerId): HarnessPeer {
    const found = this.peers.find((peer) => peer.peerId === id);
    if (found === undefined) throw new Error(`no peer ${id}`);
    return found;
  }

  ports(peer: HarnessPeer): UpkeepPorts {
    const transport = this.transports.get(peer.peerId) ?? new HarnessTransport(this, peer.peerId);
    this.transports.set(peer.peerId, transport);
    return {
      clock: this.time,
      local: peer.service,
      transport,
      allocate: heapBuffer,
      registry: {
        cluster: () => this.view(),
        onClusterChange: (listener) => {
          this.listeners.add(listener);
          return () => this.listeners.delete(listener);
        },
        collectionView: async () => {
          this.collectionViews++;
          return {
            revision: this.collectionViews,
            volumeIdLast: this.volumeIdLast,
            volumes: [...this.volumes],
            damage: this.damage,
          };
        },
      },
    };
  }

  view(): ClusterView {
    return {
      clusterId,
      blockSizeBytes: BLOCK_SIZE_BYTES,
      ring: this.ring,
      peers: this.peers.map((peer) => ({
        peerId: peer.peerId,
        address: "adp://127.0.0.1:1",
        incarnation: peer.service.identity.incarnation,
        zone: "",
        capacityBytes: 2 ** 30,
        usedBytes: 0,
        live: !peer.down,
      })),
    };
  }

  /** Tells everybody that ring or peers changed. */
  announce(): void {
    for (const listener of [...this.listeners]) listener(this.view());
  }

  change(change: RingChange): void {
    this.ring = nextRing(this.ring, change);
    this.announce();
  }

  setDown(peer: HarnessPeer, down: boolean): void {
    peer.down = down;
    this.announce();
  }

  /** Puts the block at its desired peers, or at those given, as a writer does. */
  async write(ref: BlockRef, peers: readonly HarnessPeer[] = this.desiredPeers(ref)): Promise<void> {
    const block = sealedBlock(ref);
    for (const peer of peers) {
      const status = await this.time.until(
        new Promise<StorageStatus>((resolve) =>
          peer.service.put({ ...block, writerEpoch: 0, done: resolve }),
        ),
      );
      if (status !== StorageStatus.ok) throw new Error(`put of ${formatBlockRef(ref)} ended with ${status}`);
    }
  }

  desiredPeers(ref: BlockRef): HarnessPeer[] {
    const ring = buildRing(this.ring);
    const out = new Uint16Array(ring.peers.length);
    const count = ring.permutation(ref, copyCount(this.ring), out);
    return [...out.subarray(0, count)].map((index) => this.peer(ring.peers[index] as PeerId));
  }

  /** A volume with this head; its ids count as given out. */
  setVolume(volumeId: number, head: Partial<Head>, more: Partial<CollectionVolume> = {}): void {
    this.volumeIdLast = Math.max(this.volumeIdLast, volumeId);
    this.volumes = this.volumes.filter((volume) => volume.volumeId !== volumeId);
    this.volumes.push({
      volumeId: asVolumeId(volumeId),
      lineageId: asVolumeId(volumeId),
      ancestorIds: [],
      snapshots: [],
      ...more,
      head: {
        root: null,
        epoch: 0,
        dataIndex: 0,
        inodeIndex: 0,
        sizeBytes: 2 ** 30,
        log: { ringVersion: 1, members: [], width: 0 },
        ...head,
      },
    });
  }

  deleteVolume(volumeId: number): void {
    this.volumes = this.volumes.filter((volume) => volume.volumeId !== volumeId);
  }

  /** Blocks that are not at exactly their desired peers. */
  misplaced(refs: readonly BlockRef[]): string[] {
    const holders = new Map(this.peers.map((peer) => [peer, new Set(peer.names())]));
    return refs.flatMap((ref) => {
      const name = formatBlockRef(ref);
      const desired = this.desiredPeers(ref)
        .map((peer) => peer.peerId)
        .sort();
      const actual = this.peers
        .filter((peer) => holders.get(peer)?.has(name))
        .map((peer) => peer.peerId)
        .sort();
      return desired.join() === actual.join() ? [] : [`${name}: wanted ${desired}, is at ${actual}`];
    });
  }
}

export function dataRef(volumeId: number, epoch: number, index: number): BlockRef {
  return { kind: BlockKind.data, volumeId: asVolumeId(volumeId), epoch: asEpoch(epoch), index };
}

export function inodeRef(volumeId: number, epoch: number, index: number): BlockRef {
  return { ...dataRef(volumeId, epoch, index), kind: BlockKind.inode };
}

const sealer = makeBlockSealer(clusterId);

/** A block of two pages that tell its name. */
export function sealedBlock(ref: BlockRef): SealedBlock {
  const buffer = heapBuffer(blockBufferBytes(BLOCK_SIZE_BYTES));
  const text = new TextEncoder().encode(`${formatBlockRef(ref)} `.repeat(1000)).subarray(0, 2 * PAGE_BYTES);
  if (ref.kind === BlockKind.inode) {
    buffer.bytes.set(text, BLOCK_HEADROOM_BYTES);
    return sealInodeBlock(buffer, text.length, sealer, ref);
  }
  const builder = new BlockBuilder(buffer, BLOCK_SIZE_BYTES);
  builder.addPages(ref.index * 2, 2);
  buffer.bytes.set(text, builder.slotOffset(0));
  return builder.seal(sealer, ref);
}
