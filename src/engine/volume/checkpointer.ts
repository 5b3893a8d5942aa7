/**
 * Checkpoints (rules R2, R6, R9): freeze the map, which holds acknowledged blocks only, write its changed nodes,
 * move the head in one metadata transaction. The same transaction changes the log set; from the start of such a
 * checkpoint until its outcome is known, acknowledgements satisfy the old and the new set. One at a time.
 *
 * A transaction whose outcome is unknown is repeated until the metadata answers, for the writer cannot know which
 * set an opener would go by; acknowledgements under both go on meanwhile.
 */
import { type Clock, type Epoch, type Incarnation, sleep, TorusError } from "../../base";
import { buildRing, type Ring } from "../../ring";
import { type Distributor, Placement } from "../distributor";
import type { Head, LogSet, NodePointer } from "../head";
import type { FrozenMap, PageMap } from "../inode";
import { type CommitOutcome, StorageStatus, type VolumeRegistry, type VolumeSession } from "../ports";
import { VolumeError } from "./errors";
import type { InodeWriter } from "./inode-writer";
import type { LogWriter } from "./log-writer";
import { sameLogSet } from "./membership";
import type { ObserveLatency, VolumeStatistics } from "./statistics";

const COMMIT_RETRY_MS_MIN = 100;
const COMMIT_RETRY_MS_MAX = 2_000;

export interface CheckpointerPorts {
  readonly clock: Clock;
  readonly session: VolumeSession;
  readonly registry: VolumeRegistry;
  readonly map: PageMap;
  readonly distributor: Distributor;
  readonly inodes: InodeWriter;
  readonly statistics: VolumeStatistics;
  readonly observe: ObserveLatency | undefined;
}

export interface CheckpointRequest {
  /** The log set to move to, asked for when the checkpoint begins; absent or undefined: the present one stays. */
  readonly logSet?: () => Promise<LogSet | undefined>;
  readonly sizeBytes?: number;
  /** A resize request that the transaction answers. */
  readonly answeredRequestId?: string;
  /** Take a snapshot in the same transaction. */
  readonly snapshotRequestId?: string;
  /** R6: the last one. Everything is acknowledged already and nothing more will be. */
  readonly detach?: boolean;
}

export type CheckpointOutcome =
  | { readonly kind: "committed" }
  /** Only where a request was to be answered; nothing changed. */
  | { readonly kind: "withdrawn"; readonly reason: string };

export class Checkpointer {
  readonly #ports: CheckpointerPorts;
  readonly #epoch: Epoch;
  /** Undefined during the open, when the map holds all there is. */
  log: LogWriter | undefined;
  readonly #copies: () => number;
  readonly #retired = new Set<Incarnation>();
  #head: Head;
  #headRevision: number;
  #lastRun: Promise<unknown> = Promise.resolve();
  #failure: VolumeError | undefined;
  #lastMs: number;
  #lastLogBytes = 0;
  #running = false;
  /** The transaction of the checkpoint under way may have been applied. */
  #sent = false;
  #rejectFreeze: ((error: VolumeError) => void) | undefined;

  /** `copies` is the number of copies wanted now: the ring's replication. */
  constructor(
    ports: CheckpointerPorts,
    epoch: Epoch,
    head: Head,
    headRevision: number,
    copies: () => number,
  ) {
    this.#ports = ports;
    this.#epoch = epoch;
    this.#head = head;
    this.#headRevision = headRevision;
    this.#copies = copies;
    this.#lastMs = ports.clock.nowMs();
  }

  /** The head in force, as far as is known. */
  get head(): Head {
    return this.#head;
  }

  get headRevision(): number {
    return this.#headRevision;
  }

  get running(): boolean {
    return this.#running;
  }

  get retiredIncarnations(): ReadonlySet<Incarnation> {
    return this.#retired;
  }

  get ageMs(): number {
    return this.#ports.clock.nowMs() - this.#lastMs;
  }

  /** Bytes of log since the last checkpoint. */
  get tailBytes(): number {
    return (this.log?.logBytes ?? 0) - this.#lastLogBytes;
  }

  /** Whether the map has anything that the head has not. */
  get dirty(): boolean {
    return (this.log?.appliedIndex ?? 0) > this.#head.dataIndex;
  }

  /** Waits for the checkpoint under way, then runs this one. Rejects with VolumeError when the volume must stop. */
  run(request: CheckpointRequest): Promise<CheckpointOutcome> {
    const run = this.#lastRun.then(() => this.#run(request));
    this.#lastRun = run.catch(() => undefined);
    return run;
  }

  /**
   * Gives the checkpoint under way up if its transaction was not sent yet, because the set it writes to cannot take
   * it: it rejects with a retryable error, and the next in line runs.
   */
  interrupt(): void {
    if (!this.#running || this.#sent) return;
    const error = new VolumeError("deadline", "Cannot finish the checkpoint: too few peers take its blocks", {
      retryable: true,
    });
    this.#ports.inodes.interrupt(error);
    this.#rejectFreeze?.(error);
    this.#rejectFreeze = undefined;
  }

  /** The volume failed or is closed: whatever waits here rejects. */
  fail(error: VolumeError): void {
    this.#failure ??= error;
    this.#ports.inodes.fail(error);
    this.#rejectFreeze?.(error);
    this.#rejectFreeze = undefined;
  }

  async #run(request: CheckpointRequest): Promise<CheckpointOutcome> {
    if (this.#failure) throw this.#failure;
    this.#running = true;
    const startMs = this.#ports.clock.nowMs();
    try {
      const outcome = await this.#runOnce(request);
      this.#ports.observe?.("checkpoint", this.#ports.clock.nowMs() - startMs);
      return outcome;
    } finally {
      this.#running = false;
    }
  }

  async #runOnce(request: CheckpointRequest): Promise<CheckpointOutcome> {
    const { distributor, map, statistics } = this.#ports;
    const next = await this.#placementFor(request);
    if (next) distributor.beginTransition(next);
    let frozen: FrozenMap | undefined;
    this.#sent = false;
    this.#ports.inodes.start();
    try {
      await this.#rewriteStep();
      const logBytes = this.log?.logBytes ?? 0;
      const sizeBytes = request.sizeBytes ?? this.#head.sizeBytes;
      const { map: taken, dataIndex } = await this.#freeze(sizeBytes);
      frozen = taken;
      const root = await this.#writeNodes(frozen);
      const head = this.#headFor(request, root, dataIndex, sizeBytes, next);
      this.#sent = true;
      const outcome = await this.#commit(request, head);
      if (outcome.kind === "withdrawn") {
        map.abandon(frozen);
        if (next) distributor.endTransition(false);
        return outcome;
      }
      map.commit(frozen);
      if (next) this.#retire(this.#head.log, next.log);
      if (next) distributor.endTransition(true);
      this.#head = head;
      this.#headRevision = outcome.headRevision;
      this.#lastMs = this.#ports.clock.nowMs();
      this.#lastLogBytes = logBytes;
      statistics.checkpoints++;
      return { kind: "committed" };
    } catch (error) {
      // Once the transaction was sent its outcome may be either: the volume must stop, and acknowledges nothing
      // that does not satisfy both sets until then. Before that, the old set simply stays in force.
      if (!this.#sent && frozen) map.abandon(frozen);
      if (!this.#sent && next) distributor.endTransition(false);
      throw error;
    }
  }

  async #placementFor(request: CheckpointRequest): Promise<Placement | undefined> {
    const logSet = await request.logSet?.();
    if (!logSet || sameLogSet(logSet, this.#ports.distributor.placement.log)) return undefined;
    return new Placement(logSet, await this.#ringAt(logSet.ringVersion), this.#copies());
  }

  async #ringAt(version: number): Promise<Ring> {
    const { registry } = this.#ports;
    const now = registry.cluster().ring;
    return buildRing(now.version === version ? now : await registry.ringAt(version));
  }

  #rewriteStep(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#ports.map.rewriteStep((status) => {
        if (status === StorageStatus.ok) resolve();
        else
          reject(
            new VolumeError(
              status === StorageStatus.notFound ? "map-missing" : "unreadable",
              `Cannot checkpoint: reading a node of the map gave storage status ${status}`,
              { retryable: true },
            ),
          );
      });
    });
  }

  /** Freezes between two blocks, at a moment when the map holds all that was acknowledged when this began. */
  #freeze(sizeBytes: number): Promise<{ map: FrozenMap; dataIndex: number }> {
    const { log } = this;
    const { map } = this.#ports;
    if (!log) return Promise.resolve({ map: map.freeze(sizeBytes), dataIndex: 0 });
    return new Promise((resolve, reject) => {
      if (this.#failure) return reject(this.#failure);
      let over = false;
      this.#rejectFreeze = (error) => {
        over = true;
        reject(error);
      };
      log.whenApplied(log.acknowledgedIndex, () => {
        if (over) return;
        this.#rejectFreeze = undefined;
        resolve({ map: map.freeze(sizeBytes), dataIndex: log.appliedIndex });
      });
    });
  }

  async #writeNodes(frozen: FrozenMap): Promise<NodePointer> {
    const { inodes } = this.#ports;
    const root = await frozen.write(inodes);
    await inodes.whenDurable();
    return root;
  }

  #headFor(
    request: CheckpointRequest,
    root: NodePointer,
    dataIndex: number,
    sizeBytes: number,
    next: Placement | undefined,
  ): Head {
    const log = (next ?? this.#ports.distributor.placement).log;
    return {
      root,
      epoch: this.#epoch,
      dataIndex,
      inodeIndex: this.#ports.inodes.lastIndex,
      sizeBytes,
      log: request.detach ? { ringVersion: log.ringVersion, members: [], width: 0 } : log,
    };
  }

  async #commit(
    request: CheckpointRequest,
    head: Head,
  ): Promise<Exclude<CommitOutcome, { kind: "refused" }>> {
    const { session, clock } = this.#ports;
    for (let delayMs = COMMIT_RETRY_MS_MIN; ; delayMs = Math.min(delayMs * 2, COMMIT_RETRY_MS_MAX)) {
      if (this.#failure) throw this.#failure;
      try {
        const outcome = await this.#commitOnce(session, request, head);
        if (outcome.kind === "refused")
          throw new VolumeError(
            "refused",
            `Stop writing: the metadata refused the checkpoint: ${outcome.reason}`,
          );
        return outcome;
      } catch (error) {
        if (!(error instanceof TorusError) || !error.retryable) throw error;
      }
      await sleep(clock, delayMs);
    }
  }

  #commitOnce(session: VolumeSession, request: CheckpointRequest, head: Head): Promise<CommitOutcome> {
    if (request.detach) return session.commitDetach(this.#headRevision, head);
    if (request.snapshotRequestId !== undefined)
      return session.commitSnapshot(this.#headRevision, head, request.snapshotRequestId);
    return session.commitHead(this.#headRevision, head, request.answeredRequestId);
  }

  #retire(before: LogSet, after: LogSet): void {
    for (const member of before.members) {
      const now = after.members.find((other) => other.peerId === member.peerId);
      if (now && now.incarnation !== member.incarnation) this.#retired.add(member.incarnation);
    }
  }
}
