/**
 * An open volume: the one writer of its epoch, offered as a block device. It owns the parts and their lives:
 * writes and reads, the background work (checkpoints, following peers and ring, requests of others, cleaning) and
 * the end, which is a clean detach or a failure. After a failure every request ends with `shutdown`; nothing is
 * retried, because another writer may be at work.
 *
 * Structurally a BlockDevice of blockdev/device.ts, which the engine does not import; statuses are its numbers.
 */
import { type NativeBuffer, type Timer, TorusError, within } from "../../base";
import { PAGE_BYTES } from "../block";
import type { DistributorError, DistributorListener } from "../distributor";
import type { LogSet } from "../head";
import { StorageStatus, type VolumeRequest } from "../ports";
import { roomForCopies } from "../space";
import { Cleaner } from "./cleaner";
import type { CheckpointOutcome, CheckpointRequest } from "./checkpointer";
import { ExtentScan, type VolumeExtent } from "./device-extents";
import { VolumeError } from "./errors";
import { LogWriter } from "./log-writer";
import { desiredLogSet, type MembershipView, peersToAsk, sameLogSet } from "./membership";
import { askForRooms } from "./peer-rooms";
import { ReadPath } from "./read-path";
import { Repairer } from "./repairer";
import { SpacePace } from "./space-pace";
import { SpaceShortage } from "./space-shortage";
import type { VolumeStatistics } from "./statistics";
import type { LateListener, VolumeCore } from "./volume-core";
import { type VolumeDone, VolumeStatus } from "./volume-status";
import { WritePath } from "./write-path";

const TICK_MS = 1_000;
const CLOSE_DEADLINE_MS = 30_000;
/** How often a busy writer looks whether there is something to clean. */
const CLEAN_EVERY_BLOCKS = 16;
const TAIL_BYTES_MIN = 16 * 1024 * 1024;
const REQUESTS_QUEUED_MAX = 1024;
/** 64 TiB. */
export const VOLUME_SIZE_BYTES_MAX = 64 * 2 ** 40;

export type VolumeState = "open" | "closing" | "closed" | "failed";

export interface VolumeHealth {
  readonly state: VolumeState;
  readonly reason: string | undefined;
  /** Fewer copies than the ring wants are in force for new writes. */
  readonly degraded: boolean;
  readonly width: number;
  readonly memberCount: number;
  readonly copiesWanted: number;
  /** No peer has space for some block. */
  readonly full: boolean;
  readonly tailBytes: number;
  readonly liveBytes: number;
  /** Bytes of the data blocks that hold live pages, as a multiple of the live bytes. */
  readonly spaceRatio: number;
  readonly blocksPending: number;
}

export interface CloseOutcome {
  /** The head says that there is no tail; the next open needs nobody. */
  readonly clean: boolean;
  readonly reason: string | undefined;
}

export class Volume implements DistributorListener {
  readonly readOnly: boolean;
  readonly preferredBlockBytes = PAGE_BYTES;
  readonly statistics: VolumeStatistics;
  /** Called once when the volume failed: the front end should drop its connections. */
  onFailed: (error: VolumeError) => void = () => {};
  readonly #core: VolumeCore;
  readonly #log: LogWriter;
  readonly #reads: ReadPath;
  readonly #writes: WritePath;
  readonly #cleaner: Cleaner;
  readonly #repairer: Repairer;
  readonly #shortage: SpaceShortage;
  readonly #pace: SpacePace;
  readonly #requests: VolumeRequest[] = [];
  readonly #resizeListeners = new Set<(sizeBytes: number) => void>();
  #serving = false;
  #state: VolumeState = "open";
  #failure: VolumeError | undefined;
  #sizeBytes: number;
  #tickTimer: Timer | undefined;
  #degradeTimer: Timer | undefined;
  #differsSinceMs = 0;
  /** A checkpoint that will change the log set waits for its turn. */
  #following = false;
  /** Blocks up to this one were placed by an earlier log set too: peers may drop those copies when the head is past it. */
  #spreadIndex = 0;
  #closing: Promise<CloseOutcome> | undefined;

  constructor(core: VolumeCore, listener: LateListener) {
    this.#core = core;
    this.readOnly = core.options.readOnly;
    this.statistics = core.statistics;
    this.#sizeBytes = core.checkpointer.head.sizeBytes;
    const { ports, options, map, reader, cache, statistics, session } = core;
    const { clock, allocate, observe } = ports;
    const identity = { volumeId: session.grant.volume.volumeId, epoch: session.grant.epoch };
    this.#log = new LogWriter(
      {
        ...{
          clock,
          turns: ports.turns,
          pool: ports.blockPool,
          sealer: core.sealer,
          map,
          statistics,
          observe,
        },
        coveredIndex: () => core.checkpointer.head.dataIndex,
      },
      options,
      identity,
      core.distributor,
    );
    core.checkpointer.log = this.#log;
    this.#writes = new WritePath({
      unansweredReadMs: options.unansweredReadMs,
      clock,
      allocate,
      map,
      log: this.#log,
      reader,
      cache,
      statistics,
      observe,
    });
    const sizeBytes = (): number => this.#sizeBytes;
    this.#reads = new ReadPath(
      {
        clock,
        allocate,
        map,
        log: this.#log,
        reader,
        cache,
        lease: session.lease,
        sizeBytes,
        statistics,
        observe,
      },
      options,
    );
    this.#repairer = new Repairer(reader, ports.transport, ports.bufferPool, statistics);
    this.#cleaner = new Cleaner(core, this.#log);
    this.#shortage = this.#makeShortage();
    this.#pace = this.#makePace();
    this.#log.onRoom = this.#writes.onRoom;
    this.#log.onApplied = (index) => {
      if (index % CLEAN_EVERY_BLOCKS === 0) this.#cleaner.tick();
    };
    this.#log.onFailed = (error) => this.fail(error);
    reader.onBadCopy = (ref, peer) => this.#repairer.enqueue(ref, peer);
    core.cluster.onChange = () => core.distributor.retryNow();
    listener.target = this;
    listener.lost = (reason) =>
      this.fail(new VolumeError("refused", `Stop volume "${this.name}": ${reason}`));
    session.onRequest((request) => this.#onRequest(request));
    this.#shortage.set(core.distributor.low);
    this.#scheduleTick();
  }

  get name(): string {
    return this.#core.session.grant.volume.name;
  }

  get description(): string {
    return `torus volume ${this.name}`;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get state(): VolumeState {
    return this.#state;
  }

  get health(): VolumeHealth {
    const { distributor, checkpointer, cluster } = this.#core;
    const { log, copies } = distributor.placement;
    const copiesWanted = cluster.ring().spec.replication;
    return {
      state: this.#state,
      reason: this.#failure?.message,
      degraded: copies < copiesWanted,
      width: log.width,
      memberCount: log.members.length,
      copiesWanted,
      full: distributor.full,
      tailBytes: checkpointer.tailBytes,
      liveBytes: this.#core.map.statistics().livePageCount * PAGE_BYTES,
      spaceRatio: this.#cleaner.ratio,
      blocksPending: distributor.blocksPending,
    };
  }

  // ---- the device -----------------------------------------------------------------------------------------------

  read(
    offsetBytes: number,
    lengthBytes: number,
    destination: NativeBuffer,
    destinationOffset: number,
    done: VolumeDone,
  ): void {
    const refusal = this.#refuse(offsetBytes, lengthBytes, false);
    if (refusal !== VolumeStatus.ok) return this.#answerRefused(refusal, done);
    if (lengthBytes === 0) return done(VolumeStatus.ok);
    this.statistics.readRequests++;
    this.statistics.readBytes += lengthBytes;
    this.#reads.read(offsetBytes, lengthBytes, destination, destinationOffset, done);
  }

  write(
    offsetBytes: number,
    lengthBytes: number,
    source: NativeBuffer,
    sourceOffset: number,
    forceUnitAccess: boolean,
    done: VolumeDone,
  ): void {
    const refusal = this.#refuse(offsetBytes, lengthBytes, true);
    if (refusal !== VolumeStatus.ok) return this.#answerRefused(refusal, done);
    if (lengthBytes === 0) return done(VolumeStatus.ok);
    this.statistics.writeRequests++;
    this.statistics.writeBytes += lengthBytes;
    if (!this.#shortage.isRefusing) this.#pace.wrote(lengthBytes);
    this.#writes.write(offsetBytes, lengthBytes, source, sourceOffset, forceUnitAccess, done);
  }

  flush(done: VolumeDone): void {
    if (this.#state !== "open") return this.#answerRefused(VolumeStatus.shutdown, done);
    this.statistics.flushRequests++;
    this.#writes.flush(done);
  }

  trim(offsetBytes: number, lengthBytes: number, forceUnitAccess: boolean, done: VolumeDone): void {
    this.#zero(offsetBytes, lengthBytes, forceUnitAccess, done);
  }

  writeZeroes(
    offsetBytes: number,
    lengthBytes: number,
    options: { readonly forceUnitAccess: boolean; readonly mayTrim: boolean; readonly fastOnly: boolean },
    done: VolumeDone,
  ): void {
    this.#zero(offsetBytes, lengthBytes, options.forceUnitAccess, done);
  }

  extents(
    offsetBytes: number,
    lengthBytes: number,
    extentCountMax: number,
    done: (status: VolumeStatus, extents: readonly VolumeExtent[]) => void,
  ): void {
    const refusal = this.#refuse(offsetBytes, lengthBytes, false);
    if (refusal !== VolumeStatus.ok) {
      this.statistics.failedRequests++;
      return done(refusal, []);
    }
    const { map } = this.#core;
    new ExtentScan(map, this.#log.overlay, offsetBytes, lengthBytes, extentCountMax, (status, extents) => {
      const { clock } = this.#core.ports;
      if (status !== StorageStatus.ok) return done(VolumeStatus.ioError, []);
      if (this.#state === "failed" || clock.nowMs() >= this.#core.session.lease.deadlineMs())
        return done(VolumeStatus.ioError, []);
      done(VolumeStatus.ok, extents);
    }).run();
  }

  onResize(listener: (sizeBytes: number) => void): () => void {
    this.#resizeListeners.add(listener);
    return () => this.#resizeListeners.delete(listener);
  }

  #zero(offsetBytes: number, lengthBytes: number, forceUnitAccess: boolean, done: VolumeDone): void {
    const refusal = this.#refuse(offsetBytes, lengthBytes, true);
    if (refusal !== VolumeStatus.ok) return this.#answerRefused(refusal, done);
    if (lengthBytes === 0) return done(VolumeStatus.ok);
    this.statistics.trimRequests++;
    this.statistics.trimBytes += lengthBytes;
    this.#writes.write(offsetBytes, lengthBytes, undefined, 0, forceUnitAccess, done);
  }

  #refuse(offsetBytes: number, lengthBytes: number, writes: boolean): VolumeStatus {
    if (this.#state !== "open") return VolumeStatus.shutdown;
    if (writes && this.readOnly) return VolumeStatus.readOnly;
    const fits = offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= this.#sizeBytes;
    return fits ? VolumeStatus.ok : VolumeStatus.invalid;
  }

  #answerRefused(status: VolumeStatus, done: VolumeDone): void {
    this.statistics.failedRequests++;
    done(status);
  }

  // ---- what the distributor says ------------------------------------------------------------------------------

  onAcknowledged(index: number): void {
    this.#log.acknowledged(index);
  }

  onSpaceChange(full: boolean): void {
    this.#event(full ? "warning" : "info", full ? "no peer has space for a block" : "there is space again");
    // A block that finds no space is sent again, so this is a shortage like others until nothing can be gained.
    this.#shortage.set(full || this.#core.distributor.low);
    if (!full) this.#writes.setFull(false);
    else if (this.#shortage.isRefusing) this.#writes.setFull(true);
  }

  /** A block cannot become durable with the members that answer: change the set, unless they come back at once. */
  onLowSpace(low: boolean): void {
    this.#shortage.set(low || this.#core.distributor.full);
  }

  onStuck(): void {
    if (this.#degradeTimer || this.#isOver()) return;
    this.#degradeTimer = this.#core.ports.clock.schedule(this.#core.options.degradeAfterMs, () => {
      this.#degradeTimer = undefined;
      if (this.#isOver() || !this.#core.distributor.stuck) return;
      this.#followMembers(0);
      this.onStuck();
    });
  }

  onFatal(error: DistributorError): void {
    this.fail(new VolumeError("refused", error.message, { cause: error }));
  }

  // ---- background -----------------------------------------------------------------------------------------------

  #scheduleTick(): void {
    this.#tickTimer = this.#core.ports.clock.schedule(TICK_MS, () => {
      this.#tick();
      if (!this.#isOver()) this.#scheduleTick();
    });
  }

  #tick(): void {
    const { checkpointer, options, ports } = this.#core;
    if (this.#isOver()) return;
    this.#pace.look();
    if (this.#membersDiffer(options.followAfterMs)) {
      const nowMs = ports.clock.nowMs();
      if (this.#differsSinceMs === 0) this.#differsSinceMs = nowMs;
      if (nowMs - this.#differsSinceMs >= this.#followAfterMs())
        return this.#followMembers(options.followAfterMs);
    } else this.#differsSinceMs = 0;
    if (checkpointer.running) return;
    const due =
      checkpointer.tailBytes >= this.#tailBytesMax() ||
      checkpointer.ageMs >= options.checkpointIntervalMs ||
      this.#isSpread();
    if (due && checkpointer.dirty) return this.#checkpointInBackground({});
    this.#cleaner.tick();
  }

  #followAfterMs(): number {
    const { cluster, distributor, options } = this.#core;
    const isNewRing = cluster.view.ring.version !== distributor.placement.log.ringVersion;
    return isNewRing ? Math.min(options.followRingAfterMs, options.followAfterMs) : options.followAfterMs;
  }

  /** What was written while the log set changed lies where both wanted it, and can be covered by a head now. */
  #isSpread(): boolean {
    const { head } = this.#core.checkpointer;
    return head.dataIndex < this.#spreadIndex && this.#log.appliedIndex >= this.#spreadIndex;
  }

  #makeShortage(): SpaceShortage {
    return new SpaceShortage({
      clock: this.#core.ports.clock,
      hold: (held) => {
        if (held) this.#cleaner.suspend();
        else if (!this.#shortage.isShort) this.#cleaner.resume();
        this.#writes.setHeld(held);
      },
      refuse: (refused) => {
        this.#writes.setLow(refused);
        if (refused && this.#core.distributor.full) this.#writes.setFull(true);
      },
      checkpoint: () => this.#checkpointForSpace(),
      clean: (bytesMax) => this.#cleaner.cleanSome(bytesMax),
      event: (level, text) => this.#event(level, text),
    });
  }

  #makePace(): SpacePace {
    return new SpacePace(
      {
        clock: this.#core.ports.clock,
        roomBytes: () => this.#roomBytes(),
        hold: (held) => this.#writes.setPaced(held),
        tighten: () => this.#cleaner.tighten(),
      },
      this.#core.options.paceBytesPerSecondMin,
    );
  }

  /** New data that fits until the peers that answer are nearly full; undefined when too few do to say. */
  async #roomBytes(): Promise<number | undefined> {
    const { distributor, health, ports } = this.#core;
    const { log, copies } = distributor.placement;
    const peers = log.members.map(({ peerId }) => peerId).filter((peer) => health.isUp(peer));
    const rooms = await askForRooms(ports.clock, ports.transport, peers);
    return rooms.length < Math.max(1, log.width) ? undefined : roomForCopies(rooms, copies, log.width);
  }

  async #checkpointForSpace(): Promise<void> {
    if (this.#isOver() || this.#state === "closing") return;
    try {
      // What the open block holds may be all that keeps the map from naming a block no more.
      this.#log.sealNow();
      if (this.#core.checkpointer.dirty) await this.checkpoint({});
    } catch (error) {
      this.#onBackgroundError(error);
    }
  }

  /** What was overwritten or cleaned is collected only after a checkpoint: small volumes make them more often. */
  #tailBytesMax(): number {
    const { options, map } = this.#core;
    if (this.#cleaner.isTight) return TAIL_BYTES_MIN;
    const liveBytes = map.statistics().livePageCount * PAGE_BYTES;
    return Math.min(options.checkpointLogBytes, Math.max(TAIL_BYTES_MIN, liveBytes / 4));
  }

  #desired(goneMsMax: number): LogSet | undefined {
    const { cluster, distributor, health, options, checkpointer } = this.#core;
    const view: MembershipView = {
      cluster: cluster.view,
      ring: cluster.ring(),
      current: distributor.placement.log,
      health,
      writeLevel: options.writeLevel,
      goneMsMax,
      silentMsMax: Math.max(goneMsMax, options.excludeSilentAfterMs),
      retired: checkpointer.retiredIncarnations,
    };
    for (const peerId of peersToAsk(view)) health.greet(peerId);
    return desiredLogSet(view);
  }

  /** The same, and what a lower width hangs on was asked for at this moment: a disk may be lost between two looks. */
  async #confirmed(goneMsMax: number): Promise<LogSet | undefined> {
    const { distributor, health } = this.#core;
    const desired = this.#desired(goneMsMax);
    if (!desired || desired.width >= distributor.placement.log.width) return desired;
    await health.ask(desired.members.map(({ peerId }) => peerId));
    return this.#desired(goneMsMax);
  }

  #membersDiffer(goneMsMax: number): boolean {
    const desired = this.#desired(goneMsMax);
    return desired !== undefined && !sameLogSet(desired, this.#core.distributor.placement.log);
  }

  #followMembers(goneMsMax: number): void {
    const { checkpointer, distributor } = this.#core;
    const desired = this.#desired(goneMsMax);
    const coming = distributor.nextPlacement ?? distributor.placement;
    if (!desired || sameLogSet(desired, coming.log)) return;
    // A checkpoint under way may itself wait for the members that do not answer.
    if (checkpointer.running && distributor.stuck) checkpointer.interrupt();
    if (this.#following) return;
    this.#following = true;
    this.#differsSinceMs = 0;
    this.#event(
      "info",
      `log set changes to ${desired.members.length} peers of ring version ${desired.ringVersion}, width ${desired.width}`,
    );
    this.#checkpointInBackground(
      {
        logSet: () => {
          this.#following = false;
          return this.#confirmed(goneMsMax);
        },
      },
      () => {
        this.#spreadIndex = this.#log.sealedIndex;
      },
    );
  }

  #checkpointInBackground(request: CheckpointRequest, onCommitted: () => void = () => {}): void {
    this.checkpoint(request).then(onCommitted, (error: unknown) => this.#onBackgroundError(error));
  }

  #onBackgroundError(error: unknown): void {
    if (this.#isOver()) return;
    this.#event("warning", `checkpoint failed and is tried again: ${messageOf(error)}`);
  }

  /** Runs a checkpoint now; the volume fails with it when it cannot be known what the metadata holds. */
  async checkpoint(request: CheckpointRequest = {}): Promise<CheckpointOutcome> {
    try {
      return await this.#core.checkpointer.run(request);
    } catch (error) {
      const retryable = error instanceof TorusError && error.retryable;
      if (!retryable) this.fail(asVolumeError(error, this.name));
      throw error;
    }
  }

  // ---- requests of others ---------------------------------------------------------------------------------------

  #onRequest(request: VolumeRequest): void {
    if (this.#requests.length >= REQUESTS_QUEUED_MAX) {
      this.#reject(request, `${REQUESTS_QUEUED_MAX} requests wait already`);
      return;
    }
    this.#requests.push(request);
    if (!this.#serving) void this.#serveRequests();
  }

  async #serveRequests(): Promise<void> {
    this.#serving = true;
    for (let request = this.#requests.shift(); request && !this.#isOver(); request = this.#requests.shift())
      try {
        if (request.kind === "snapshot") await this.#takeSnapshot(request.requestId);
        else await this.#grow(request.requestId, request.sizeBytes);
      } catch (error) {
        if (!this.#isOver()) this.#reject(request, messageOf(error));
      }
    this.#serving = false;
  }

  #reject(request: VolumeRequest, reason: string): void {
    this.#core.session.rejectRequest(request.requestId, reason).catch((error: unknown) => {
      this.#event("warning", `a ${request.kind} request could not be answered: ${messageOf(error)}`);
    });
  }

  /** R9: everything written before now is in the snapshot. */
  async #takeSnapshot(requestId: string): Promise<void> {
    await this.#drain();
    const outcome = await this.checkpoint({ snapshotRequestId: requestId });
    const { root, dataIndex } = this.#core.checkpointer.head;
    if (outcome.kind === "committed") this.#cleaner.snapshotTaken(root?.index ?? 0, dataIndex);
    else this.#event("info", `a snapshot request was withdrawn: ${outcome.reason}`);
  }

  async #grow(requestId: string, sizeBytes: number): Promise<void> {
    if (sizeBytes < this.#sizeBytes)
      throw new VolumeError(
        "bad-size",
        `Cannot shrink volume "${this.name}" while it is attached: detach it first`,
      );
    await this.#resizeTo(sizeBytes, requestId);
  }

  /** Grows, or with `shrink` cuts off (and trims) what lies beyond the new size. */
  async resize(sizeBytes: number, options: { readonly shrink?: boolean } = {}): Promise<void> {
    if (sizeBytes < this.#sizeBytes) {
      if (!options.shrink)
        throw new VolumeError(
          "bad-size",
          `Cannot make volume "${this.name}" smaller without --shrink: what lies beyond the new size is lost`,
        );
      const before = this.#sizeBytes;
      checkSize(this.name, sizeBytes);
      this.#sizeBytes = sizeBytes;
      await this.#writes.whenIdle();
      const trimmed = await new Promise<VolumeStatus>((resolve) =>
        this.#writes.write(sizeBytes, before - sizeBytes, undefined, 0, true, resolve),
      );
      if (trimmed !== VolumeStatus.ok) {
        this.#sizeBytes = before;
        throw new VolumeError(
          "closed",
          `Cannot resize volume "${this.name}": trimming its end failed (${trimmed})`,
          { retryable: true },
        );
      }
    }
    await this.#resizeTo(sizeBytes, undefined);
  }

  async #resizeTo(sizeBytes: number, requestId: string | undefined): Promise<void> {
    checkSize(this.name, sizeBytes);
    const request = requestId === undefined ? { sizeBytes } : { sizeBytes, answeredRequestId: requestId };
    const outcome = await this.checkpoint(request);
    if (outcome.kind === "withdrawn") return;
    this.#sizeBytes = sizeBytes;
    for (const listener of this.#resizeListeners) listener(sizeBytes);
  }

  /** Resolves when everything written so far is acknowledged. */
  #drain(): Promise<void> {
    const index = this.#log.sealNow();
    return new Promise((resolve, reject) => {
      this.#log.whenAcknowledged(index, (ok) => {
        if (ok) resolve();
        else
          reject(
            this.#failure ??
              new VolumeError(
                "closed",
                `Cannot make volume "${this.name}" durable: ${this.#core.distributor.full ? "no peer has space left" : "it is closing"}`,
                {
                  retryable: true,
                },
              ),
          );
      });
    });
  }

  // ---- the end --------------------------------------------------------------------------------------------------

  /** Stops everything at once; every request ends with `shutdown`, now and later. */
  fail(error: VolumeError): void {
    if (this.#isOver()) return;
    this.#failure = error;
    this.#state = "failed";
    this.#event("error", error.message);
    this.#stopParts(error);
    this.onFailed(error);
  }

  /**
   * Detaches (rule R6): takes no more requests, makes everything durable, checkpoints and gives the lock back with
   * a head that has no tail. When that cannot be done in time, or the volume failed, the lock is given back as after
   * a crash: nothing that was acknowledged is lost, the next open adopts the tail.
   */
  close(deadlineMs: number = CLOSE_DEADLINE_MS): Promise<CloseOutcome> {
    this.#closing ??= this.#close(deadlineMs);
    return this.#closing;
  }

  async #close(deadlineMs: number): Promise<CloseOutcome> {
    const { ports, session } = this.#core;
    let reason = this.#failure?.message;
    if (this.#state === "open") {
      this.#state = "closing";
      try {
        const isDetached = await within(
          ports.clock,
          deadlineMs,
          this.#detach().then(() => true),
        );
        if (isDetached === undefined)
          throw new VolumeError(
            "deadline",
            `Cannot detach volume "${this.name}" within ${deadlineMs / 1000} s`,
          );
        this.#finishClosing();
        return { clean: true, reason: undefined };
      } catch (error) {
        reason = messageOf(error);
        this.#event("warning", `volume ${this.name} ends without a clean detach: ${reason}`);
      }
    }
    this.#finishClosing();
    await session.abandon();
    return { clean: false, reason };
  }

  async #detach(): Promise<void> {
    this.#shortage.stop();
    this.#pace.stop();
    await this.#writes.whenIdle();
    await this.#cleaner.stop();
    await this.#drain();
    await this.#core.checkpointer.run({ detach: true });
  }

  #finishClosing(): void {
    if (this.#state !== "failed") this.#state = "closed";
    this.#stopParts(this.#failure ?? new VolumeError("closed", `Volume "${this.name}" is closed`));
  }

  #stopParts(error: VolumeError): void {
    const { distributor, checkpointer, health, cluster } = this.#core;
    this.#tickTimer?.cancel();
    this.#degradeTimer?.cancel();
    distributor.stop();
    checkpointer.fail(error);
    this.#reads.stop();
    this.#writes.stop();
    this.#log.stop();
    this.#repairer.stop();
    this.#shortage.stop();
    this.#pace.stop();
    void this.#cleaner.stop();
    health.close();
    cluster.close();
  }

  #isOver(): boolean {
    return this.#state === "failed" || this.#state === "closed";
  }

  #event(level: "info" | "warning" | "error", text: string): void {
    this.#core.ports.onEvent?.({ level, text: `volume ${this.name}: ${text}` });
  }
}

function checkSize(name: string, sizeBytes: number): void {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 1 || sizeBytes > VOLUME_SIZE_BYTES_MAX)
    throw new VolumeError(
      "bad-size",
      `Cannot resize volume "${name}" to ${sizeBytes} bytes: a size is between 1 byte and 64 TiB`,
    );
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function asVolumeError(error: unknown, name: string): VolumeError {
  if (error instanceof VolumeError) return error;
  return new VolumeError("refused", `Stop volume "${name}": ${messageOf(error)}`, { cause: error });
}
