/**
 * One open volume's line to the metadata. It holds the lock by a kept lease and puts heads with compares on epoch,
 * lock and head revision, so that a writer that was superseded can change nothing. A commit whose answer was lost
 * is repeated as it was until the outcome is definite: the repetition either applies, or finds its own head by the
 * random `commit` in it, or finds another's and is refused. Refusals are final: revisions and epochs never go back.
 */
import { assert, sleep } from "../../base";
import type { CommitOutcome, Head, OpenGrant, VolumeRequest, VolumeSession } from "../../engine";
import { isMetaError, MetaError } from "../errors";
import type { Compare, KeyValue, LeaseId, Operation, Watch } from "../kv";
import {
  LeaseKeeper,
  again,
  decodeHead,
  decodeLock,
  decodeRequest,
  decodeVolume,
  encodeHead,
  encodeLock,
  encodeRequest,
  encodeSnapshot,
  encodeVolume,
  hasTail,
  keys,
  readAll,
  repeat,
  type KeyState,
  type LeaseTimes,
  type MetaContext,
  type StoredLock,
  type StoredRequest,
  type StoredSnapshot,
  unchanged,
} from "../records";

/** After this the caller hears of it (and repeats the call). */
const COMMIT_DEADLINE_MS = 15_000;
const COMMIT_PAUSE_MS = 200;

/** What the open transaction left behind. */
export interface TakenLock {
  readonly lock: StoredLock;
  readonly lockRevision: number;
  readonly epochRevision: number;
  readonly lease: LeaseId;
  readonly leaseSentMs: number;
  /** Of the snapshot that is to be restored. */
  readonly restoreEntry?: KeyValue;
}

interface CommitPart {
  readonly compares: readonly Compare[];
  readonly operations: readonly Operation[];
}

interface Commit {
  readonly expectedRevision: number;
  readonly head: Head;
  readonly token: string;
  /** What goes into the transaction besides epoch, lock and head; asked for anew in every attempt. */
  prepare(): Promise<CommitPart | CommitOutcome>;
  /** The answer when a compare of `prepare` failed; undefined: prepare again. */
  explain?(reads: ReadonlyMap<string, KeyValue | undefined>): CommitOutcome | undefined;
}

export class MetaVolumeSession implements VolumeSession {
  readonly grant: OpenGrant;
  readonly lease: LeaseKeeper;
  readonly #context: MetaContext;
  readonly #taken: TakenLock;
  readonly #watch: Watch;
  readonly #requests = new Map<string, KeyValue>();
  readonly #delivered = new Set<string>();
  readonly #requestListeners: ((request: VolumeRequest) => void)[] = [];
  #lockRevision: number;
  #sizeBytes: number;
  #restoreEntry: KeyValue | undefined;
  #lastCommit:
    | { readonly expectedRevision: number; readonly text: string; readonly token: string }
    | undefined;
  #ended = false;

  constructor(context: MetaContext, grant: OpenGrant, taken: TakenLock, times: LeaseTimes) {
    this.#context = context;
    this.grant = grant;
    this.#taken = taken;
    this.#lockRevision = taken.lockRevision;
    this.#sizeBytes = grant.volume.sizeBytes;
    this.#restoreEntry = taken.restoreEntry;
    this.lease = new LeaseKeeper(
      context,
      times,
      { check: (lease) => this.#checkLock(lease), retake: (lease) => this.#retakeLock(lease) },
      taken.lease,
      taken.leaseSentMs,
    );
    this.#watch = this.#follow();
  }

  onRequest(listener: (request: VolumeRequest) => void): void {
    this.#requestListeners.push(listener);
    this.#deliverRequests();
  }

  onLost(listener: (reason: string) => void): void {
    this.lease.onLost(listener);
  }

  async commitHead(expectedRevision: number, head: Head, answeredRequestId?: string): Promise<CommitOutcome> {
    const outcome = await this.#commit({
      ...this.#newCommit(expectedRevision, head, answeredRequestId ?? ""),
      prepare: () => this.#prepareHead(head, answeredRequestId),
    });
    if (outcome.kind === "committed") {
      this.#sizeBytes = head.sizeBytes;
      this.#restoreEntry = undefined;
    }
    return outcome;
  }

  async commitDetach(expectedRevision: number, head: Head): Promise<CommitOutcome> {
    assert(!hasTail(head), "a clean detach leaves no log tail");
    // A lock lost meanwhile is retaken first; then a renewal must not take the one that we delete for a lost one.
    await this.lease.renew();
    await this.lease.pauseForGood();
    const lock = keys.lock(this.grant.volume.volumeId);
    try {
      const outcome = await this.#commit({
        ...this.#newCommit(expectedRevision, head, "detach"),
        prepare: async () => ({ compares: [], operations: [{ kind: "delete", key: lock }] }),
      });
      if (outcome.kind === "committed") await this.abandon();
      return outcome;
    } finally {
      this.lease.resume();
    }
  }

  async commitSnapshot(expectedRevision: number, head: Head, requestId: string): Promise<CommitOutcome> {
    const { volumeId } = this.grant.volume;
    const entry = this.#requests.get(requestId);
    const stored = entry === undefined ? undefined : decodeRequest(entry);
    if (entry === undefined || stored?.request.kind !== "snapshot" || stored.failure !== undefined)
      return this.#wasAnswered(expectedRevision, head, requestId);
    const { copy } = stored;
    if (copy !== undefined && copy.epoch !== this.#taken.lock.epoch) {
      const reason = "it was asked of an earlier writer";
      await this.rejectRequest(requestId, reason);
      return { kind: "withdrawn", reason };
    }
    const snapshot: StoredSnapshot = {
      ...{ volumeId, name: stored.request.name, requestId },
      ...{ root: head.root, sizeBytes: head.sizeBytes },
      createdMs: this.#context.clock.wallMs(),
      ...(copy !== undefined && { origin: copy.origin }),
    };
    const key = keys.snapshot(volumeId, snapshot.name);
    try {
      const outcome = await this.#commit({
        ...this.#newCommit(expectedRevision, head, requestId),
        prepare: async () => ({
          compares: [unchanged(entry.key, entry), unchanged(key, undefined)],
          operations: [
            {
              ...{ kind: "put" as const, key, value: encodeSnapshot(snapshot) },
              ...(stored.lease !== undefined && { lease: stored.lease }),
            },
            { kind: "delete", key: entry.key },
          ],
        }),
        explain: (reads) => {
          if (isChanged(reads, entry.key, entry.modRevision))
            return { kind: "withdrawn", reason: "the request was cancelled" };
          if (reads.get(key) !== undefined)
            return { kind: "withdrawn", reason: `there is a snapshot "${snapshot.name}"` };
          return undefined;
        },
      });
      if (outcome.kind === "withdrawn") await this.rejectRequest(requestId, outcome.reason);
      return outcome;
    } catch (error) {
      if (!isMetaError(error, "lease-lost")) throw error;
      await this.rejectRequest(requestId, "its requester's lease ended");
      return { kind: "withdrawn", reason: "the requester's lease ended" };
    }
  }

  async rejectRequest(requestId: string, reason: string): Promise<void> {
    const { store } = this.#context;
    const key = keys.request(this.grant.volume.volumeId, requestId);
    await repeat(this.#context, { what: "refuse a request" }, async () => {
      const entry = await store.get(key);
      if (entry === undefined) return;
      const stored = decodeRequest(entry);
      if (stored.failure !== undefined) return;
      const value = encodeRequest({ ...stored, failure: reason.slice(0, 1024) });
      try {
        const result = await store.transact({
          compares: [unchanged(key, entry)],
          operations: [{ kind: "put", key, value, ...(entry.lease !== "" && { lease: entry.lease }) }],
        });
        return result.committed ? undefined : again;
      } catch (error) {
        // The request goes with its lease.
        if (isMetaError(error, "lease-lost")) return;
        throw error;
      }
    });
  }

  async abandon(): Promise<void> {
    if (this.#ended) return;
    try {
      await this.#end();
    } catch (error) {
      // Metadata cannot be reached: the lock ends with its lease.
      if (!(error instanceof MetaError && error.retryable)) throw error;
    }
  }

  async #prepareHead(head: Head, answeredRequestId: string | undefined): Promise<CommitPart | CommitOutcome> {
    const { volumeId } = this.grant.volume;
    const compares: Compare[] = [];
    const operations: Operation[] = [];
    const restore = this.#restoreEntry;
    const recordKey = keys.record(volumeId);
    const [record, snapshot] = await readAll(this.#context.store, [recordKey, restore?.key ?? recordKey]);
    if (record === undefined) return { kind: "refused", reason: "the volume was deleted" };
    if (head.sizeBytes !== this.#sizeBytes) {
      const value = encodeVolume({ ...decodeVolume(record), sizeBytes: head.sizeBytes });
      compares.push(unchanged(recordKey, record));
      operations.push({ kind: "put", key: recordKey, value });
    }
    if (restore !== undefined) {
      // The same snapshot, however often it was pinned since.
      if (snapshot?.createRevision !== restore.createRevision)
        return { kind: "refused", reason: "the snapshot to restore was deleted" };
      compares.push(unchanged(restore.key, snapshot));
    }
    if (answeredRequestId !== undefined)
      operations.push({ kind: "delete", key: keys.request(volumeId, answeredRequestId) });
    return { compares, operations };
  }

  /** A head that is put twice in a row, because the first outcome stayed unknown, is known by the same token. */
  #newCommit(
    expectedRevision: number,
    head: Head,
    purpose: string,
  ): Pick<Commit, "expectedRevision" | "head" | "token"> {
    const text = JSON.stringify([purpose, head]);
    const last = this.#lastCommit;
    const isSame = last?.expectedRevision === expectedRevision && last.text === text;
    const token = isSame ? last.token : this.#context.random.hex(8);
    this.#lastCommit = { expectedRevision, text, token };
    return { expectedRevision, head, token };
  }

  async #commit(commit: Commit): Promise<CommitOutcome> {
    const { clock } = this.#context;
    const deadlineMs = clock.nowMs() + COMMIT_DEADLINE_MS;
    for (;;) {
      if (this.#ended)
        throw new MetaError("session-ended", "Cannot change the volume's head: it was detached");
      if (this.lease.lostReason !== undefined) return { kind: "refused", reason: this.lease.lostReason };
      let failure: MetaError;
      try {
        const outcome = await this.#tryCommit(commit);
        if (outcome !== again) return outcome;
        failure = new MetaError(
          "conflict",
          `Cannot change the head of volume "${this.grant.volume.name}": its lock is lost and being retaken`,
          { retryable: true },
        );
      } catch (error) {
        if (!(error instanceof MetaError) || !error.retryable) throw error;
        failure = error;
      }
      if (clock.nowMs() + COMMIT_PAUSE_MS >= deadlineMs) throw failure;
      await sleep(clock, COMMIT_PAUSE_MS);
    }
  }

  async #tryCommit(commit: Commit): Promise<CommitOutcome | typeof again> {
    const { volumeId } = this.grant.volume;
    const [headKey, epochKey, lockKey] = [keys.head(volumeId), keys.epoch(volumeId), keys.lock(volumeId)];
    const lockRevision = this.#lockRevision;
    const part = await commit.prepare();
    if ("kind" in part) return part;
    const readKeys = [headKey, epochKey, lockKey, ...part.compares.map((compare) => compare.key)];
    const result = await this.#context.store.transact({
      compares: [
        { key: headKey, modRevision: commit.expectedRevision },
        { key: epochKey, modRevision: this.#taken.epochRevision },
        { key: lockKey, modRevision: lockRevision },
        ...part.compares,
      ],
      operations: [
        { kind: "put", key: headKey, value: encodeHead(commit.head, commit.token) },
        ...part.operations,
      ],
      reads: readKeys,
    });
    if (result.committed) return { kind: "committed", headRevision: result.revision };
    const reads = new Map(readKeys.map((key, index) => [key, result.reads[index]]));
    return this.#explainRefusal(commit, reads, headKey, epochKey, lockKey, lockRevision);
  }

  async #explainRefusal(
    commit: Commit,
    reads: ReadonlyMap<string, KeyValue | undefined>,
    headKey: string,
    epochKey: string,
    lockKey: string,
    lockRevision: number,
  ): Promise<CommitOutcome | typeof again> {
    const head = reads.get(headKey);
    if (head === undefined) return { kind: "refused", reason: "the volume was deleted" };
    if (head.modRevision !== commit.expectedRevision) {
      // Our own, from an attempt whose answer was lost?
      if (decodeHead(head).commit === commit.token)
        return { kind: "committed", headRevision: head.modRevision };
      return { kind: "refused", reason: "the head was changed by another" };
    }
    if (isChanged(reads, epochKey, this.#taken.epochRevision))
      return { kind: "refused", reason: "another writer opened the volume" };
    const outcome = commit.explain?.(reads);
    if (outcome !== undefined) return outcome;
    if (!isChanged(reads, lockKey, lockRevision)) return again;
    const lock = reads.get(lockKey);
    if (lock !== undefined && decodeLock(lock).token !== this.#taken.lock.token)
      return { kind: "refused", reason: "another holds the volume's lock" };
    // Lost with its lease: it may be retaken while nobody else opened.
    await this.lease.renew();
    return again;
  }

  /** A snapshot commit that is repeated after an unknown outcome finds its request gone; was it this one? */
  async #wasAnswered(expectedRevision: number, head: Head, requestId: string): Promise<CommitOutcome> {
    const { token } = this.#newCommit(expectedRevision, head, requestId);
    const [entry, request] = await readAll(this.#context.store, [
      keys.head(this.grant.volume.volumeId),
      keys.request(this.grant.volume.volumeId, requestId),
    ]);
    if (entry !== undefined && decodeHead(entry).commit === token)
      return { kind: "committed", headRevision: entry.modRevision };
    const reason = request === undefined ? "the request was cancelled" : "the request was refused";
    return { kind: "withdrawn", reason };
  }

  async #checkLock(lease: LeaseId): Promise<KeyState> {
    const { volumeId } = this.grant.volume;
    const [epoch, lock] = await readAll(this.#context.store, [keys.epoch(volumeId), keys.lock(volumeId)]);
    return this.#lockState(epoch, lock, lease);
  }

  #lockState(epoch: KeyValue | undefined, lock: KeyValue | undefined, lease: LeaseId): KeyState {
    if (epoch === undefined) return { kind: "lost", reason: "the volume was deleted" };
    if (epoch.modRevision !== this.#taken.epochRevision)
      return { kind: "lost", reason: "the volume was opened or unlocked elsewhere" };
    if (lock === undefined) return { kind: "missing" };
    if (decodeLock(lock).token !== this.#taken.lock.token)
      return { kind: "lost", reason: `the volume is attached by ${decodeLock(lock).holder}` };
    if (lock.lease !== lease) return { kind: "missing" };
    this.#lockRevision = lock.modRevision;
    return { kind: "held" };
  }

  async #retakeLock(lease: LeaseId): Promise<KeyState> {
    const { volumeId } = this.grant.volume;
    const [epochKey, lockKey] = [keys.epoch(volumeId), keys.lock(volumeId)];
    const [epoch, lock] = await readAll(this.#context.store, [epochKey, lockKey]);
    const state = this.#lockState(epoch, lock, lease);
    if (state.kind !== "missing") return state;
    const result = await this.#context.store.transact({
      compares: [
        { key: epochKey, modRevision: this.#taken.epochRevision },
        { key: lockKey, modRevision: lock?.modRevision ?? 0 },
      ],
      operations: [{ kind: "put", key: lockKey, value: encodeLock(this.#taken.lock), lease }],
    });
    if (!result.committed) return { kind: "missing" };
    this.#lockRevision = result.revision;
    return { kind: "held" };
  }

  /** Requests, and early word of an epoch or lock that changed under us. */
  #follow(): Watch {
    const { volumeId } = this.grant.volume;
    const [epochKey, lockKey] = [keys.epoch(volumeId), keys.lock(volumeId)];
    const requests = keys.requestsPrefix(volumeId);
    const put = (entry: KeyValue) => {
      if (entry.key.startsWith(requests)) this.#requests.set(entry.key.slice(requests.length), entry);
      else if (entry.key === epochKey && entry.modRevision !== this.#taken.epochRevision) this.#renewSoon();
    };
    return this.#context.store.watch(keys.volumePrefix(volumeId), {
      onSnapshot: (entries) => {
        this.#requests.clear();
        for (const entry of entries) put(entry);
        this.#deliverRequests();
      },
      onEvents: (events) => {
        for (const event of events)
          if (event.kind === "put") put(event.entry);
          else if (event.key.startsWith(requests)) {
            this.#requests.delete(event.key.slice(requests.length));
            this.#delivered.delete(event.key.slice(requests.length));
          } else if (event.key === lockKey || event.key === epochKey) this.#renewSoon();
        this.#deliverRequests();
      },
    });
  }

  #renewSoon(): void {
    if (!this.#ended) void this.lease.renew();
  }

  #deliverRequests(): void {
    if (this.#requestListeners.length === 0 || this.#ended) return;
    for (const [requestId, entry] of this.#requests) {
      if (this.#delivered.has(requestId)) continue;
      this.#delivered.add(requestId);
      let stored: StoredRequest;
      try {
        stored = decodeRequest(entry);
      } catch (error) {
        // A request that nobody can read: its maker gets no answer in time.
        if (isMetaError(error)) continue;
        throw error;
      }
      if (stored.failure !== undefined) continue;
      for (const listener of this.#requestListeners) listener(stored.request);
    }
  }

  /** Gives up lease and lock; after a detach the lock is gone already. */
  async #end(): Promise<void> {
    this.#ended = true;
    this.#watch.close();
    await this.lease.stop();
    await repeat(this.#context, { what: "give a volume's lease up", deadlineMs: 5_000 }, () =>
      this.#context.store.revokeLease(this.lease.lease),
    );
  }
}

function isChanged(
  reads: ReadonlyMap<string, KeyValue | undefined>,
  key: string,
  modRevision: number,
): boolean {
  return (reads.get(key)?.modRevision ?? 0) !== modRevision;
}
