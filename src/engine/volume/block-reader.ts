/**
 * Reads parts of sealed blocks from the peers, checked. The order of asking is the block's permutation on the ring
 * of now (the local peer first where it should have the block, peers believed dead last), then the rest of the
 * ring, then every registered peer. A copy that fails its check is reported, and rewritten from a good one; a read
 * ends well only with bytes that match the CRCs sealed with them, and never with zeroes in their place. This check is
 * the only one of a read: peers send what their disk holds, and look themselves once a reader has found it bad.
 *
 * A peer that keeps silent is not waited for until the deadline: the next is asked as well, into memory of its own, and
 * the first good answer wins (see hedging.ts for when). The destination is the caller's again when the read is
 * finished: before a second answer is served the first request is withdrawn from the transport, and where that cannot
 * be, its end is awaited. A peer that others overtook repeatedly is asked after them for a while.
 *
 * Requests are pooled objects that are handed to the transport themselves: no closure or promise per read.
 */
import { type BlockRef, type ClusterId, formatBlockRef, type NativeBuffer, type PeerId } from "../../base";
import type { Ring } from "../../ring";
import {
  BLOCK_HEADROOM_BYTES,
  BlockFault,
  BlockHeader,
  blockSeed,
  BlockVerifier,
  clusterIdBytes,
  clusterSeed,
  PAGE_BYTES,
  readCheck,
} from "../block";
import { meansDown, type PeerHealth } from "../distributor";
import { type PeerTransport, StorageStatus } from "../ports";
import { BlockRead, type Hedge, NO_BUFFER } from "./block-read";
import { Hedging, type HedgingPorts } from "./hedging";
import type { ReadLevel } from "./options";
import type { VolumeStatistics } from "./statistics";

/** Permutation entries looked at before the whole cluster is asked, beyond the replication. */
const SPARE_CANDIDATES = 1;
const POOL_MAX = 256;

/** The cluster as a reader sees it; answers may change from call to call. */
export interface ReaderView {
  ring(): Ring;
  /** All registered peers, live or not. */
  peers(): readonly PeerId[];
}

export interface BlockReaderPorts {
  readonly clusterId: ClusterId;
  readonly transport: PeerTransport;
  readonly health: PeerHealth;
  readonly view: ReaderView;
  readonly statistics: VolumeStatistics;
  /** Absent: every peer has until the transport's deadline. For work that nobody waits for. */
  readonly hedging?: HedgingPorts;
}

export interface BlockReaderOptions {
  readonly readLevel: ReadLevel;
  /** The peer of this process or machine, asked first where it should have the block. */
  readonly localPeerId: PeerId | undefined;
}

export class BlockReader {
  /** Told of a copy that failed its check, when another was good. */
  onBadCopy: (ref: BlockRef, peer: PeerId) => void = () => {};
  readonly #ports: BlockReaderPorts;
  readonly #options: BlockReaderOptions;
  readonly #seed: number;
  readonly #idBytes: Uint8Array;
  readonly #pool: BlockRead[] = [];
  readonly #hedging: Hedging | undefined;
  readonly #header = new BlockHeader();
  /** Bad copies that a peer is looking at. */
  readonly #reported = new Set<string>();
  #permutation = new Uint16Array(64);
  #spread = 0;
  /** The block whose seed was computed last; sequential reads stay within one. */
  #seedEpoch = 0;
  #seedIndex = 0;
  #seedVolumeId = 0;
  #seedKind = 0;
  #blockSeed = 0;

  constructor(ports: BlockReaderPorts, options: BlockReaderOptions) {
    this.#ports = ports;
    this.#options = options;
    this.#seed = clusterSeed(ports.clusterId);
    this.#idBytes = clusterIdBytes(ports.clusterId);
    if (ports.hedging === undefined) return;
    this.#hedging = new Hedging(ports.hedging);
    this.#hedging.onDue = this.#onDue;
    this.#hedging.onAnswer = this.#onHedgeAnswer;
  }

  acquire(): BlockRead {
    const read = this.#pool.pop() ?? new BlockRead();
    read.onlyPeer = undefined;
    return read;
  }

  release(read: BlockRead): void {
    read.finished = undefined;
    read.context = undefined;
    read.destination = NO_BUFFER;
    if (this.#pool.length < POOL_MAX) this.#pool.push(read);
  }

  /** Starts a read whose fields are filled; `finished` runs once, possibly before this returns. */
  start(read: BlockRead): void {
    read.attempt = 0;
    read.choseFew = read.onlyPeer !== undefined;
    read.askedAll = read.onlyPeer !== undefined;
    read.badPeer = undefined;
    read.sawUnreachable = false;
    read.answered = this.#onAnswer;
    read.candidates.length = 0;
    if (read.onlyPeer !== undefined) read.candidates.push(read.onlyPeer);
    else {
      this.#chooseFirst(read);
      if (this.#ports.health.anyLate) this.#ports.health.noteAsked(read.candidates[0]);
    }
    this.#askNext(read);
  }

  /** Reads a header into destination (room for HEADER_BYTES_MAX). Rejects never; resolves with the outcome. */
  readHeader(
    ref: BlockRef,
    destination: NativeBuffer,
    offset: number,
    onlyPeer?: PeerId,
  ): Promise<StorageStatus> {
    return this.#readOnce(ref, 0, 0, 0, destination, offset, onlyPeer);
  }

  /**
   * Reads and verifies a whole block into a block buffer: header before, payload from BLOCK_HEADROOM_BYTES on.
   * Resolves with where the block starts, or with the status that says why there is none.
   */
  async readBlock(
    ref: BlockRef,
    buffer: NativeBuffer,
    onlyPeer?: PeerId,
  ): Promise<{ readonly status: StorageStatus; readonly offset: number; readonly lengthBytes: number }> {
    const failed = (status: StorageStatus) => ({ status, offset: 0, lengthBytes: 0 });
    // The header's length is known only when it is there: it comes to where the payload goes after it moved.
    const status = await this.readHeader(ref, buffer, BLOCK_HEADROOM_BYTES, onlyPeer);
    if (status !== StorageStatus.ok) return failed(status);
    const header = new BlockHeader();
    const room = buffer.bytes.length - BLOCK_HEADROOM_BYTES;
    if (header.parse(buffer, BLOCK_HEADROOM_BYTES, room) !== BlockFault.none)
      return failed(StorageStatus.corrupt);
    if (header.payloadBytes > room) return failed(StorageStatus.badRequest);
    const offset = BLOCK_HEADROOM_BYTES - header.headerBytes;
    buffer.bytes.copyWithin(offset, BLOCK_HEADROOM_BYTES, BLOCK_HEADROOM_BYTES + header.headerBytes);
    if (header.slotCount > 0) {
      const body = await this.#readOnce(
        ref,
        0,
        header.slotCount,
        header.payloadBytes,
        buffer,
        BLOCK_HEADROOM_BYTES,
        onlyPeer,
      );
      if (body !== StorageStatus.ok) return failed(body);
    }
    const verifier = new BlockVerifier(this.#ports.clusterId);
    if (verifier.verify(buffer, offset, header.lengthBytes) !== BlockFault.none)
      return failed(StorageStatus.corrupt);
    return { status: StorageStatus.ok, offset, lengthBytes: header.lengthBytes };
  }

  #readOnce(
    ref: BlockRef,
    firstSlot: number,
    slotCount: number,
    expectedBytes: number,
    destination: NativeBuffer,
    offset: number,
    onlyPeer: PeerId | undefined,
  ): Promise<StorageStatus> {
    return new Promise((resolve) => {
      const read = this.acquire();
      read.ref = ref;
      read.firstSlot = firstSlot;
      read.slotCount = slotCount;
      read.expectedBytes = expectedBytes;
      read.destination = destination;
      read.destinationOffset = offset;
      read.onlyPeer = onlyPeer;
      read.finished = (finished, status) => {
        this.release(finished);
        resolve(status);
      };
      this.start(read);
    });
  }

  /** Nearly every read ends with the first peer of the block's permutation: the others are looked up when needed. */
  #chooseFirst(read: BlockRead): void {
    if (this.#options.readLevel === "spread" || this.#options.localPeerId !== undefined)
      return this.#chooseFew(read);
    const ring = this.#ports.view.ring();
    const count = ring.permutation(read.ref, Math.min(ring.peers.length, 1), this.#permutation);
    const peer = count === 0 ? undefined : ring.peers[this.#permutation[0] as number];
    const { health } = this.#ports;
    if (peer !== undefined && health.isUp(peer) && !(health.anyLate && health.isLate(peer)))
      read.candidates.push(peer);
    else this.#chooseFew(read);
  }

  /** The first few of the permutation: those believed up first, of these the prompt ones, the local peer before all. */
  #chooseFew(read: BlockRead): void {
    read.choseFew = true;
    const ring = this.#ports.view.ring();
    const peers = ring.peers;
    const replication = ring.spec.replication;
    if (this.#permutation.length < peers.length) this.#permutation = new Uint16Array(peers.length);
    const count = ring.permutation(
      read.ref,
      Math.min(peers.length, replication + SPARE_CANDIDATES),
      this.#permutation,
    );
    const first = Math.min(replication, count);
    const start = this.#options.readLevel === "spread" && first > 0 ? this.#spread++ % first : 0;
    const out = read.candidates;
    const asked = out[0];
    const { health } = this.#ports;
    const { anyLate } = health;
    for (let rank = 0; rank < 3; rank++) {
      if (rank === 1 && !anyLate) continue;
      for (let position = 0; position < count; position++) {
        const turned = position < first ? (position + start) % first : position;
        const peer = peers[this.#permutation[turned] as number] as PeerId;
        if (peer === asked) continue;
        const isLate = anyLate && health.isLate(peer);
        const peerRank = !health.isUp(peer) ? 2 : isLate ? 1 : 0;
        if (peerRank !== rank) continue;
        const isLocal =
          peer === this.#options.localPeerId && position < first && this.#options.readLevel !== "seq";
        if (isLocal) out.unshift(peer);
        else out.push(peer);
      }
    }
  }

  #chooseRest(read: BlockRead): void {
    read.askedAll = true;
    const ring = this.#ports.view.ring();
    const peers = ring.peers;
    if (this.#permutation.length < peers.length) this.#permutation = new Uint16Array(peers.length);
    const count = ring.permutation(read.ref, peers.length, this.#permutation);
    const out = read.candidates;
    for (let position = 0; position < count; position++) {
      const peer = peers[this.#permutation[position] as number] as PeerId;
      if (!out.includes(peer)) out.push(peer);
    }
    for (const peer of this.#ports.view.peers()) if (!out.includes(peer)) out.push(peer);
  }

  #askNext(read: BlockRead): void {
    if (read.attempt === read.candidates.length && !read.choseFew) this.#chooseFew(read);
    if (read.attempt === read.candidates.length && !read.askedAll) this.#chooseRest(read);
    const peer = read.candidates[read.attempt];
    if (peer === undefined) {
      // What is left is the second request, and its answer says how the read ends.
      if (read.hedge !== undefined) return;
      let status: StorageStatus = StorageStatus.notFound;
      if (read.sawUnreachable) status = StorageStatus.unreachable;
      else if (read.badPeer !== undefined) status = StorageStatus.corrupt;
      return this.#finish(read, status);
    }
    read.attempt++;
    read.asked = peer;
    if (read.hedge === undefined) this.#watch(read, peer);
    this.#ports.transport.read(peer, read);
  }

  readonly #onAnswer = (
    read: BlockRead,
    peer: PeerId,
    status: StorageStatus,
    lengthBytes: number,
    check: number,
  ): void => {
    read.asked = undefined;
    const { hedge, destination, destinationOffset } = read;
    const isGood =
      status === StorageStatus.ok && this.#isGood(read, destination, destinationOffset, lengthBytes, check);
    if (read.isWatched) {
      if (isGood) this.#hedging?.measure(read);
      if (isGood && this.#ports.health.anyLate) this.#ports.health.prompt(peer);
      this.#hedging?.unwatch(read);
    }
    if (isGood) {
      this.#dropHedge(read);
      return this.#succeed(read, peer, lengthBytes);
    }
    const othersMayDo = this.#noteFailure(read, peer, status);
    // The second peer's answer is there, and waited only for the first to be done with the destination.
    if (hedge?.answeredBy !== undefined) return this.#serveHedge(read, hedge);
    if (!othersMayDo) {
      this.#dropHedge(read);
      return this.#finish(read, status);
    }
    this.#askNext(read);
  };

  /** Why a peer's answer is of no use; false: nor is any other's, for all have the same access lists. */
  #noteFailure(read: BlockRead, peer: PeerId, status: StorageStatus): boolean {
    if (status === StorageStatus.ok) {
      this.#ports.statistics.badCopies++;
      read.badPeer = peer;
      void this.#report(peer, read.ref);
    } else if (status === StorageStatus.corrupt) {
      this.#ports.statistics.badCopies++;
      read.badPeer = peer;
    } else if (status === StorageStatus.denied) {
      return false;
    } else if (status !== StorageStatus.notFound) {
      read.sawUnreachable = true;
      if (meansDown(status)) this.#ports.health.failed(peer, true);
    }
    return true;
  }

  #succeed(read: BlockRead, peer: PeerId, lengthBytes: number): void {
    read.lengthBytes = lengthBytes;
    read.servedBy = peer;
    if (read.badPeer !== undefined && read.onlyPeer === undefined) this.onBadCopy(read.ref, read.badPeer);
    this.#finish(read, StorageStatus.ok);
  }

  // ---- second requests ------------------------------------------------------------------------------------------

  /** The local peer answers within the turn or holds up this very thread: there is nothing to wait for. */
  #watch(read: BlockRead, peer: PeerId): void {
    if (read.onlyPeer === undefined && peer !== this.#options.localPeerId) this.#hedging?.watch(read);
  }

  readonly #onDue = (read: BlockRead): void => {
    const { health, statistics, transport } = this.#ports;
    if (read.attempt === read.candidates.length && !read.choseFew) this.#chooseFew(read);
    // Not the rest of the cluster: only who should have the block is asked for what may yet come.
    const peer = read.candidates[read.attempt];
    if (peer === undefined || read.askedAll || !health.isUp(peer)) return this.#hedging?.unwatch(read);
    const hedge = this.#hedging?.take(read);
    if (hedge === undefined) return;
    read.attempt++;
    read.hedge = hedge;
    statistics.hedgedReads++;
    transport.read(peer, hedge);
  };

  readonly #onHedgeAnswer = (
    hedge: Hedge,
    peer: PeerId,
    status: StorageStatus,
    lengthBytes: number,
    check: number,
  ): void => {
    const { read, destination } = hedge;
    const { health } = this.#ports;
    if (read === undefined) {
      if (meansDown(status)) health.failed(peer, true);
      return this.#hedging?.giveBack(hedge);
    }
    if (status === StorageStatus.ok && this.#isGood(read, destination, 0, lengthBytes, check)) {
      hedge.answeredBy = peer;
      hedge.lengthBytes = lengthBytes;
      if (read.asked !== undefined && read.asked === hedge.silent) health.late(read.asked);
      // The first peer may be in the middle of its answer. Until it cannot write any more, the caller has to wait.
      if (this.#withdraw(read)) this.#serveHedge(read, hedge);
      return;
    }
    this.#dropHedge(read);
    this.#hedging?.giveBack(hedge);
    const othersMayDo = this.#noteFailure(read, peer, status);
    if (!othersMayDo && this.#withdraw(read)) return this.#finish(read, status);
    if (read.asked === undefined) return this.#askNext(read);
    this.#watch(read, read.asked);
  };

  /** Whether nobody can write to the destination any more. */
  #withdraw(read: BlockRead): boolean {
    if (read.asked !== undefined && !this.#ports.transport.withdrawRead(read.asked, read)) return false;
    read.asked = undefined;
    return true;
  }

  /** Nobody writes to the destination any more: the second peer's bytes, which were checked, go there. */
  #serveHedge(read: BlockRead, hedge: Hedge): void {
    const { lengthBytes, answeredBy } = hedge;
    read.destination.bytes.set(hedge.destination.bytes.subarray(0, lengthBytes), read.destinationOffset);
    this.#ports.statistics.hedgesWon++;
    this.#dropHedge(read);
    this.#succeed(read, answeredBy as PeerId, lengthBytes);
  }

  /** The read goes on without its second request, whose memory is its transport's until that is done. */
  #dropHedge(read: BlockRead): void {
    const { hedge } = read;
    if (hedge === undefined) return;
    read.hedge = undefined;
    hedge.read = undefined;
    if (hedge.answeredBy !== undefined) this.#hedging?.giveBack(hedge);
  }

  /** Has the peer verify its copy, so that it knows, tells and mends what is bad. Scrub finds what this misses. */
  async #report(peer: PeerId, ref: BlockRef): Promise<void> {
    const key = `${peer} ${formatBlockRef(ref)}`;
    if (this.#reported.has(key)) return;
    this.#reported.add(key);
    const { transport, view } = this.#ports;
    try {
      await transport.confirm(peer, { refs: [ref], ringVersion: view.ring().spec.version });
    } catch {
      // It cannot be asked now.
    } finally {
      this.#reported.delete(key);
    }
  }

  #isGood(
    read: BlockRead,
    buffer: NativeBuffer,
    offset: number,
    lengthBytes: number,
    check: number,
  ): boolean {
    const { ref } = read;
    if (read.slotCount === 0) {
      const fault = this.#header.parse(buffer, offset, lengthBytes);
      const found = this.#header.ref;
      return (
        fault === BlockFault.none &&
        this.#header.isOfCluster(this.#idBytes) &&
        found.kind === ref.kind &&
        found.volumeId === ref.volumeId &&
        found.epoch === ref.epoch &&
        found.index === ref.index
      );
    }
    if (lengthBytes < read.expectedBytes || lengthBytes > read.slotCount * PAGE_BYTES) return false;
    return readCheck(this.#seedOf(ref), read.firstSlot, buffer.bytes, offset, lengthBytes) === check;
  }

  #seedOf(ref: BlockRef): number {
    if (
      ref.index !== this.#seedIndex ||
      ref.epoch !== this.#seedEpoch ||
      ref.volumeId !== this.#seedVolumeId ||
      ref.kind !== this.#seedKind
    ) {
      this.#seedIndex = ref.index;
      this.#seedEpoch = ref.epoch;
      this.#seedVolumeId = ref.volumeId;
      this.#seedKind = ref.kind;
      this.#blockSeed = blockSeed(this.#seed, ref);
    }
    return this.#blockSeed;
  }

  #finish(read: BlockRead, status: StorageStatus): void {
    read.answered = undefined;
    const finished = read.finished;
    finished?.(read, status);
  }
}

/** How many slots hold `lengthBytes` of payload. */
export function slotsOf(lengthBytes: number): number {
  return Math.ceil(lengthBytes / PAGE_BYTES);
}
