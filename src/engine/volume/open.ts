/**
 * Opening a volume as its writer (rule R3): fence and list at every peer that can be reached, decide what the tail
 * holds, bring it into the map, copy each of its blocks to as many members of the new set as the set is wide, and
 * checkpoint under the new epoch. Only then is there a Volume that takes I/O. A crash anywhere before leaves the
 * old head in force; an error gives the lock back.
 */
import {
  asEpoch,
  BlockKind,
  type BlockRef,
  type Epoch,
  type NativeBuffer,
  type PeerId,
  type VolumeId,
} from "../../base";
import { BlockFault, BlockHeader, HEADER_BYTES_MAX, makeBlockSealer } from "../block";
import { DistributedBlock, Distributor, PeerHealth, Placement } from "../distributor";
import type { Head, LogMember, LogSet } from "../head";
import { createPageMap, InodeError, openPageMap, type PageMap } from "../inode";
import {
  type FenceReply,
  type FenceRequest,
  type OpenGrant,
  StorageStatus,
  type VolumeSession,
} from "../ports";
import { placingMembers } from "../../ring";
import { BlockApplier } from "./block-applier";
import { BlockReader } from "./block-reader";
import { Checkpointer } from "./checkpointer";
import { ClusterFollower } from "./cluster-follower";
import { VolumeError } from "./errors";
import { InodeWriter } from "./inode-writer";
import { PeerNodeReader } from "./node-reader";
import { VOLUME_DEFAULTS, type VolumeOptions, widthOf } from "./options";
import {
  type AdoptedBlock,
  type Adoption,
  fenceAndList,
  hasSeenNewerMetadata,
  newerMetadata,
  planAdoption,
} from "./recovery";
import { newVolumeStatistics } from "./statistics";
import { Volume } from "./volume";
import { LateListener, type VolumeCore, type VolumePorts } from "./volume-core";

/** Headers of the tail read at once. */
const HEADERS_AT_ONCE = 32;
/** The whole open; beyond it the lock is given back and the caller may try again. */
const OPEN_DEADLINE_MS = 120_000;
/** Times that an opener asks again for a part of the map that no peer has: some ten seconds. */
const MAP_MISSING_COUNT_MAX = 8;
const MAP_MISSING_ADVICE =
  "if the metadata were put back to a backup, it is from before that part of the map was written anew and the old one deleted: only a newer copy of the metadata opens the volume; else a peer that held it was removed or lost its disk";

/**
 * Takes the session over: it ends with the returned volume, or is abandoned when the open fails. Throws VolumeError;
 * `retryable` says whether waiting for peers may help.
 */
export async function openVolume(
  ports: VolumePorts,
  session: VolumeSession,
  options: Partial<VolumeOptions> = {},
): Promise<Volume> {
  const opening = new Opening(ports, session, { ...VOLUME_DEFAULTS, ...options });
  try {
    return await opening.run();
  } catch (error) {
    await opening.abandon();
    throw opening.explain(error);
  }
}

class Opening {
  readonly #ports: VolumePorts;
  readonly #session: VolumeSession;
  readonly #options: VolumeOptions;
  readonly #grant: OpenGrant;
  readonly #cluster: ClusterFollower;
  readonly #health: PeerHealth;
  readonly #reader: BlockReader;
  readonly #statistics = newVolumeStatistics();
  readonly #listener = new LateListener();
  #distributor: Distributor | undefined;
  #checkpointer: Checkpointer | undefined;
  /** What --accept-loss gave up: told when a head without it is to be put, for until then nothing is lost. */
  readonly #losses: string[] = [];
  #failure: VolumeError | undefined;
  #rejectStep: ((error: VolumeError) => void) | undefined;
  #done = false;

  constructor(ports: VolumePorts, session: VolumeSession, options: VolumeOptions) {
    this.#ports = ports;
    this.#session = session;
    this.#options = options;
    this.#grant = session.grant;
    this.#cluster = new ClusterFollower(ports.registry);
    this.#health = new PeerHealth(ports.clock, ports.transport);
    this.#reader = new BlockReader(
      {
        clusterId: this.#cluster.view.clusterId,
        transport: ports.transport,
        health: this.#health,
        view: this.#cluster,
        statistics: this.#statistics,
        hedging: ports,
      },
      { readLevel: options.readLevel, localPeerId: ports.localPeerId },
    );
  }

  async run(): Promise<Volume> {
    const { clock } = this.#ports;
    const name = this.#grant.volume.name;
    const deadline = clock.schedule(OPEN_DEADLINE_MS, () =>
      this.#fail(
        new VolumeError(
          "deadline",
          `Cannot open volume "${name}" within ${OPEN_DEADLINE_MS / 1000} s: peers are too slow or went away; try again`,
          {
            retryable: true,
          },
        ),
      ),
    );
    this.#listener.lost = (reason) =>
      this.#fail(new VolumeError("refused", `Cannot open volume "${name}": ${reason}`));
    this.#session.onLost((reason) => this.#listener.lost?.(reason));
    try {
      return await this.#open();
    } finally {
      deadline.cancel();
    }
  }

  explain(error: unknown): unknown {
    const isMissing =
      (error instanceof InodeError && error.code === "node-missing") ||
      (error instanceof VolumeError && error.code === "map-missing");
    if (!isMissing && !(error instanceof InodeError)) return error;
    const advice = isMissing ? MAP_MISSING_ADVICE : "start the peers that hold it";
    return new VolumeError(
      isMissing ? "map-missing" : "unreadable",
      `Cannot open volume "${this.#grant.volume.name}": ${error.message}; ${advice}`,
      { retryable: error.retryable, cause: error },
    );
  }

  async abandon(): Promise<void> {
    this.#done = true;
    const error = this.#failure ?? new VolumeError("closed", "Cannot go on: the open was given up");
    this.#checkpointer?.fail(error);
    this.#distributor?.stop();
    this.#health.close();
    this.#cluster.close();
    await this.#session.abandon();
  }

  async #open(): Promise<Volume> {
    const { head, epoch, volume } = this.#grant;
    const replies = await this.#step(this.#fence());
    const restore = this.#grant.restoreFrom;
    const wanted = planAdoption(volume.name, epoch, head, replies, this.#options.acceptLoss, (peer) =>
      this.#cluster.describe(peer),
    );
    const adoption: Adoption = restore ? { blocks: [], givenUp: wanted.givenUp } : wanted;
    if (adoption.givenUp.length > 0)
      this.#losses.push(
        `volume ${volume.name} opened without ${adoption.givenUp.map((peer) => this.#cluster.describe(peer)).join(", ")}: what only they held is lost`,
      );
    const logSet = this.#newLogSet(replies);
    const root = restore ? restore.root : head.root;
    const map = await this.#step(this.#openMap(root));
    const adopted = await this.#step(this.#applyTail(map, adoption));
    const core = this.#assemble(map, logSet);
    await this.#step(this.#replicate(core.distributor, adopted, replies, logSet));
    map.beginEpoch(volume.volumeId, epoch);
    const sizeBytes = restore ? restore.sizeBytes : head.sizeBytes;
    for (const text of this.#losses) this.#ports.onEvent?.({ level: "warning", text });
    await this.#step(core.checkpointer.run({ sizeBytes }));
    if (this.#failure) throw this.#failure;
    this.#done = true;
    return new Volume(core, this.#listener);
  }

  /** A step of the open ends early when the open as a whole failed. */
  #step<T>(work: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#failure) {
        work.catch(() => undefined);
        return reject(this.#failure);
      }
      this.#rejectStep = reject;
      work.then(resolve, reject);
    });
  }

  #fail(error: VolumeError): void {
    if (this.#done) return;
    this.#failure ??= error;
    this.#rejectStep?.(this.#failure);
  }

  async #fence(): Promise<readonly FenceReply[]> {
    const { head, epoch, volume, minted } = this.#grant;
    const inSet = head.log.members.map((member) => member.peerId);
    const registered = this.#cluster.view.peers;
    const targets = [...new Set<PeerId>([...inSet, ...registered.map((peer) => peer.peerId)])];
    const mustAnswer = new Set<PeerId>(inSet);
    for (const peer of registered) if (peer.live) mustAnswer.add(peer.peerId);
    const { volumeId } = volume;
    const request = { volumeId, epoch, tailEpoch: head.epoch, tailAfterIndex: head.dataIndex };
    const { clock, transport } = this.#ports;
    const ask = (peers: readonly PeerId[], question: FenceRequest) =>
      fenceAndList(clock, transport, peers, mustAnswer, question, this.#options.fenceDeadlineMs);
    const replies = await ask(targets, { ...request, minted });
    const refusing = replies.filter((reply) => hasSeenNewerMetadata(reply, epoch));
    if (!this.#options.acceptLoss || refusing.length === 0) return replies;
    for (const reply of refusing)
      this.#losses.push(
        `volume ${volume.name} opened although peer ${this.#cluster.describe(reply.peerId)} has seen ${newerMetadata(reply, head)}, which the metadata does not know of: what was written since is lost`,
      );
    const again = await ask(
      refusing.map(({ peerId }) => peerId),
      request,
    );
    return [...replies.filter((reply) => !refusing.includes(reply)), ...again];
  }

  /** S' and W': the placing members of the ring that answered, in the incarnation that answered. */
  #newLogSet(replies: readonly FenceReply[]): LogSet {
    const spec = this.#cluster.ring().spec;
    const members: LogMember[] = [];
    for (const { peerId } of placingMembers(spec)) {
      const reply = replies.find((one) => one.peerId === peerId && one.status === StorageStatus.ok);
      if (reply) members.push({ peerId, incarnation: reply.incarnation });
    }
    if (members.length === 0)
      throw new VolumeError(
        "no-peers",
        `Cannot open volume "${this.#grant.volume.name}": none of the ${spec.members.length} members of ring version ${spec.version} answers; start a daemon, or add peers to the ring`,
        { retryable: true },
      );
    const width = Math.min(widthOf(this.#options.writeLevel, spec.replication), members.length);
    return { ringVersion: spec.version, members, width };
  }

  #openMap(root: Head["root"]): Promise<PageMap> {
    const options = {
      reader: new PeerNodeReader(this.#reader, this.#ports.allocate),
      residentBytesMax: this.#options.mapBytesMax,
    };
    return root === null ? Promise.resolve(createPageMap(options)) : openPageMap(options, root);
  }

  /** Reads the headers of the adopted blocks, a few ahead, and applies them in order. */
  async #applyTail(map: PageMap, adoption: Adoption): Promise<readonly AdoptedBlock[]> {
    const { blocks } = adoption;
    const { head, volume } = this.#grant;
    if (blocks.length === 0) return blocks;
    map.beginEpoch(volume.volumeId, asEpoch(head.epoch));
    const applier = new BlockApplier(this.#ports.clock, map, MAP_MISSING_COUNT_MAX);
    const buffers = Array.from({ length: Math.min(HEADERS_AT_ONCE, blocks.length) }, () =>
      this.#ports.allocate(HEADER_BYTES_MAX),
    );
    const reading: Promise<boolean>[] = [];
    const startRead = (position: number): void => {
      const block = blocks[position];
      if (block)
        reading[position] = this.#readTailHeader(
          block,
          buffers[position % buffers.length] as (typeof buffers)[0],
        );
    };
    for (let position = 0; position < buffers.length; position++) startRead(position);
    for (const [position, block] of blocks.entries()) {
      if (this.#failure) throw this.#failure;
      const found = await (reading[position] as Promise<boolean>);
      if (!found) {
        await Promise.all(reading.slice(position));
        return this.#cutTail(blocks, position);
      }
      const buffer = buffers[position % buffers.length] as (typeof buffers)[0];
      const lsn = map.claimLsn(block.index);
      await new Promise<void>((resolve, reject) => {
        applier.apply(buffer, 0, HEADER_BYTES_MAX, lsn, (error) => (error ? reject(error) : resolve()));
      });
      startRead(position + buffers.length);
    }
    return blocks;
  }

  #cutTail(blocks: readonly AdoptedBlock[], position: number): readonly AdoptedBlock[] {
    const block = blocks[position] as AdoptedBlock;
    if (!this.#options.acceptLoss)
      throw new VolumeError(
        "tail-uncertain",
        `Cannot open volume "${this.#grant.volume.name}": block ${block.index} of its log cannot be read from ${block.holders.map((one) => this.#cluster.describe(one.peerId)).join(", ")}; start the other peers, or give it up with --accept-loss`,
        { retryable: true },
      );
    return blocks.slice(0, position);
  }

  async #readTailHeader(block: AdoptedBlock, buffer: NativeBuffer): Promise<boolean> {
    const header = new BlockHeader();
    for (const holder of block.holders) {
      const status = await this.#reader.readHeader(this.#tailRef(block.index), buffer, 0, holder.peerId);
      if (status !== StorageStatus.ok) continue;
      if (
        header.parse(buffer, 0, HEADER_BYTES_MAX) === BlockFault.none &&
        header.headerCrc === block.headerCrc
      )
        return true;
    }
    return false;
  }

  #tailRef(index: number): BlockRef {
    const { head, volume } = this.#grant;
    return { kind: BlockKind.data, volumeId: volume.volumeId, epoch: asEpoch(head.epoch), index };
  }

  #assemble(map: PageMap, logSet: LogSet): VolumeCore {
    const { clock, transport, registry, bufferPool, observe } = this.#ports;
    const { epoch, volume, head, headRevision } = this.#grant;
    const sealer = makeBlockSealer(this.#cluster.view.clusterId);
    const ring = this.#cluster.ring();
    const distributor = new Distributor(
      clock,
      transport,
      new Placement(logSet, ring, ring.spec.replication),
      this.#listener,
      this.#health,
    );
    this.#distributor = distributor;
    this.#listener.target = {
      onAcknowledged: () => {},
      onLowSpace: () => {},
      onSpaceChange: (full) => {
        if (full)
          this.#fail(
            new VolumeError(
              "no-peers",
              `Cannot open volume "${volume.name}": no peer has space left; free some, or add a peer`,
              {
                retryable: true,
              },
            ),
          );
      },
      onStuck: () => {},
      onFatal: (error) => this.#fail(new VolumeError("refused", error.message, { cause: error })),
    };
    const identity: { volumeId: VolumeId; epoch: Epoch } = { volumeId: volume.volumeId, epoch };
    const inodes = new InodeWriter(clock, bufferPool, sealer, distributor, this.#statistics, identity);
    const checkpointer = new Checkpointer(
      {
        clock,
        session: this.#session,
        registry,
        map,
        distributor,
        inodes,
        statistics: this.#statistics,
        observe,
      },
      epoch,
      head,
      headRevision,
      () => this.#cluster.ring().spec.replication,
    );
    this.#checkpointer = checkpointer;
    return {
      ports: this.#ports,
      options: this.#options,
      session: this.#session,
      cluster: this.#cluster,
      health: this.#health,
      reader: this.#reader,
      map,
      sealer,
      distributor,
      inodes,
      checkpointer,
      statistics: this.#statistics,
      cache: this.#ports.makeCache?.(),
      onCleanError: (error) =>
        this.#ports.onEvent?.({
          level: "warning",
          text: `volume ${volume.name}: cleaning stopped for now: ${error instanceof Error ? error.message : String(error)}`,
        }),
    };
  }

  /** R3e: every adopted block on at least W' members of S'. They keep their names; the fence test is on my epoch. */
  async #replicate(
    distributor: Distributor,
    blocks: readonly AdoptedBlock[],
    replies: readonly FenceReply[],
    logSet: LogSet,
  ): Promise<void> {
    const inSet = (holder: LogMember): boolean =>
      logSet.members.some((one) => one.peerId === holder.peerId && one.incarnation === holder.incarnation);
    const short = blocks.filter((block) => block.holders.filter(inSet).length < logSet.width);
    let next = 0;
    const worker = async (): Promise<void> => {
      for (let block = short[next++]; block; block = short[next++]) {
        if (this.#failure) throw this.#failure;
        await this.#copyBlock(distributor, block, replies);
      }
    };
    const workers = Math.max(1, Math.min(this.#ports.bufferPool.countMax - 1, 8));
    await Promise.all(Array.from({ length: workers }, worker));
  }

  async #copyBlock(
    distributor: Distributor,
    block: AdoptedBlock,
    replies: readonly FenceReply[],
  ): Promise<void> {
    const { bufferPool, clock } = this.#ports;
    const buffer = await bufferPool.acquire();
    const ref = this.#tailRef(block.index);
    const damaged = new Set<PeerId>();
    let found = { status: StorageStatus.notFound as StorageStatus, offset: 0, lengthBytes: 0 };
    try {
      for (const holder of block.holders) {
        if (this.#failure) throw this.#failure;
        found = await this.#reader.readBlock(ref, buffer, holder.peerId);
        if (found.status === StorageStatus.ok) break;
        if (found.status === StorageStatus.corrupt) damaged.add(holder.peerId);
      }
      if (this.#failure) throw this.#failure;
    } catch (error) {
      bufferPool.release(buffer);
      throw error;
    }
    if (found.status !== StorageStatus.ok) {
      bufferPool.release(buffer);
      throw new VolumeError(
        "tail-uncertain",
        `Cannot open volume "${this.#grant.volume.name}": block ${block.index} of its log cannot be read from ${block.holders.map((one) => this.#cluster.describe(one.peerId)).join(", ")}; start the other peers and try again`,
        { retryable: true },
      );
    }
    const sending = new DistributedBlock();
    sending.ref = ref;
    sending.buffer = buffer;
    sending.offset = found.offset;
    sending.lengthBytes = found.lengthBytes;
    sending.writerEpoch = this.#grant.epoch;
    sending.ordered = false;
    const nowMs = clock.nowMs();
    // What was just found damaged is no copy, whatever the peer listed: it is sent again, which mends it.
    for (const holder of block.holders)
      if (!damaged.has(holder.peerId) && replies.some((reply) => reply.peerId === holder.peerId))
        sending.addStored(holder.peerId, holder.incarnation, nowMs);
    await new Promise<void>((resolve) => {
      sending.acknowledged = resolve;
      sending.released = () => bufferPool.release(buffer);
      distributor.submit(sending);
    });
  }
}
