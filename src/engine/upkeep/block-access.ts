/**
 * How background work reaches blocks: it reads and sends like a client, through the transport (whose shortcut serves
 * the local peer), and lists and deletes at the local peer only.
 */
import {
  type AllocateBuffer,
  type BlockRef,
  type Clock,
  type NativeBuffer,
  type PeerId,
  within,
} from "../../base";
import { blockBufferBytes, HEADER_BYTES_MAX } from "../block";
import { PeerHealth } from "../distributor";
import type { NodeReader } from "../inode";
import {
  type ConfirmReply,
  LOOK_UP,
  type PeerTransport,
  type StorageService,
  StorageStatus,
  type VolumeRegistry,
} from "../ports";
import { BlockReader, ClusterFollower, newVolumeStatistics, PeerNodeReader } from "../volume";
import { forEachLimited } from "./concurrency";

/** What background work asks of the peer it belongs to, on its thread; a StorageService is one. */
export type LocalPeer = Pick<
  StorageService,
  "identity" | "walk" | "confirm" | "statistics" | "deleteBlocks" | "adoptRingVersion" | "checkRecords"
>;

/** What background work asks of the metadata. */
export type UpkeepRegistry = Pick<VolumeRegistry, "cluster" | "onClusterChange" | "collectionView">;

export interface UpkeepPorts {
  readonly clock: Clock;
  readonly local: LocalPeer;
  readonly transport: PeerTransport;
  readonly registry: UpkeepRegistry;
  readonly allocate: AllocateBuffer;
}

/** A whole block in a buffer, verified. */
export interface WholeBlock {
  readonly buffer: NativeBuffer;
  readonly offset: number;
  readonly lengthBytes: number;
}

const HEADER_BUFFERS_MAX = 64;
/** Questions about single blocks under way at once; each is a header of about a kilobyte. */
const QUESTIONS_MAX = 32;
/** A peer that takes longer is out of reach for now: it looks at its memory alone. */
const LOOK_UP_MS = 2_000;

export class BlockAccess {
  readonly cluster: ClusterFollower;
  readonly nodes: NodeReader;
  private readonly reader: BlockReader;
  private readonly health: PeerHealth;
  private readonly headerBuffers: NativeBuffer[] = [];
  private readonly blockBuffers: NativeBuffer[] = [];

  constructor(private readonly ports: UpkeepPorts) {
    const { clock, transport, registry, allocate, local } = ports;
    this.cluster = new ClusterFollower(registry);
    this.health = new PeerHealth(clock, transport);
    this.reader = new BlockReader(
      {
        clusterId: this.cluster.view.clusterId,
        transport,
        health: this.health,
        view: this.cluster,
        statistics: newVolumeStatistics(),
      },
      { readLevel: "block", localPeerId: local.identity.peerId },
    );
    this.nodes = new PeerNodeReader(this.reader, allocate);
  }

  close(): void {
    this.cluster.close();
    this.health.close();
  }

  /** Whether the peer holds the block, by its header alone: ok, notFound, corrupt, or why it cannot be told. */
  async ask(peer: PeerId, ref: BlockRef): Promise<StorageStatus> {
    const buffer = this.headerBuffers.pop() ?? this.ports.allocate(HEADER_BYTES_MAX);
    const status = await this.reader.readHeader(ref, buffer, 0, peer);
    if (this.headerBuffers.length < HEADER_BUFFERS_MAX) this.headerBuffers.push(buffer);
    return status;
  }

  /**
   * As `ask`, many blocks in one message, by the peer's index, which knows what is durable there and not what rotted
   * since: scrub finds that. A peer that knows no such question is asked for each header.
   */
  async askMany(peer: PeerId, refs: readonly BlockRef[]): Promise<readonly StorageStatus[]> {
    const reply = await this.lookUp(peer, refs);
    const statuses = refs.map(() => StorageStatus.unreachable as StorageStatus);
    if (reply?.peerId !== peer || reply.statuses.length !== refs.length) return statuses;
    if (reply.ringVersion === LOOK_UP) return reply.statuses;
    await forEachLimited([...refs.entries()], QUESTIONS_MAX, async ([at, ref]) => {
      statuses[at] = await this.ask(peer, ref);
    });
    return statuses;
  }

  /** Undefined when it cannot be asked now. */
  private lookUp(peer: PeerId, refs: readonly BlockRef[]): Promise<ConfirmReply | undefined> {
    const { clock, transport } = this.ports;
    return within(clock, LOOK_UP_MS, transport.confirm(peer, { refs, ringVersion: LOOK_UP })).catch(
      () => undefined,
    );
  }

  /**
   * Reads a block whole, from one peer or from wherever a good copy is, and hands it to `use`; its buffer goes back
   * when that resolves. Resolves with the status of the read when there is no good copy, else with what `use` says.
   */
  async withBlock(
    ref: BlockRef,
    from: PeerId | undefined,
    use: (block: WholeBlock) => Promise<StorageStatus>,
  ): Promise<StorageStatus> {
    const lengthBytes = blockBufferBytes(this.cluster.view.blockSizeBytes);
    const buffer = this.blockBuffers.pop() ?? this.ports.allocate(lengthBytes);
    try {
      const found = await this.reader.readBlock(ref, buffer, from);
      if (found.status !== StorageStatus.ok) return found.status;
      return await use({ buffer, offset: found.offset, lengthBytes: found.lengthBytes });
    } finally {
      this.blockBuffers.push(buffer);
    }
  }

  /** Sends an unfenced copy, which counts for no acknowledgement (R1). */
  send(peer: PeerId, block: WholeBlock): Promise<StorageStatus> {
    return new Promise((resolve) => {
      this.ports.transport.put(peer, {
        ...block,
        writerEpoch: 0,
        done: (_peer, _incarnation, status) => resolve(status),
      });
    });
  }
}
