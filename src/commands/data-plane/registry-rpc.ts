/**
 * The metadata as the data worker sees it. Metadata clients live on the main thread (they need the runtime's
 * sockets, which a thread blocked in its own loop doesn't serve); the engine in the worker is given this
 * VolumeRegistry, whose calls cross to the main thread. Lease deadlines are not asked for but read from memory
 * both threads share, because every read of a volume looks at one.
 */
import { assert, TorusError } from "../../base";
import { resolveStreamAddress, systemClock } from "../../base/io";
import type {
  ClusterView,
  CollectionView,
  CommitOutcome,
  Head,
  LeaseState,
  OpenGrant,
  OpenOptions,
  SnapshotRecord,
  SnapshotSession,
  VolumeRecord,
  VolumeRegistry,
  VolumeRequest,
  VolumeSession,
} from "../../engine";
import type { RingSpec } from "../../ring";

/**
 * The writer's lock and a reader's pin: how long a crashed client keeps others out, against how long reads go on while
 * the metadata cannot be reached.
 */
export const VOLUME_LEASE_TIMES = { ttlMs: 15_000, marginMs: 2_000 };

/** A session's number, never used twice in a process. */
type SessionId = number;

/** Sessions open at once in one process. */
export const SESSIONS_MAX = 4096;
/** A worker answers at once that it has a session, or it does not know of it. */
const CLAIM_MS = 60_000;

/** Where a session's deadline stands in the shared memory. */
function slotOf(session: SessionId): number {
  return session % SESSIONS_MAX;
}
/** How long a metadata call may take on the main thread before the worker gives up waiting for it. */
const CALL_TIMEOUT_MS = 60_000;
export interface RegistryMethods {
  openVolume(argument: {
    name: string;
    holder: string;
    options: OpenOptions;
  }): Promise<{ session: SessionId; grant: OpenGrant }>;
  openSnapshot(argument: {
    name: string;
    snapshotName: string;
    holder: string;
  }): Promise<{ session: SessionId; volume: VolumeRecord; snapshot: SnapshotRecord }>;
  closeSnapshot(session: SessionId): Promise<void>;
  commitHead(argument: {
    session: SessionId;
    revision: number;
    head: Head;
    answeredRequestId?: string;
  }): Promise<CommitOutcome>;
  commitDetach(argument: { session: SessionId; revision: number; head: Head }): Promise<CommitOutcome>;
  commitSnapshot(argument: {
    session: SessionId;
    revision: number;
    head: Head;
    requestId: string;
  }): Promise<CommitOutcome>;
  rejectRequest(argument: { session: SessionId; requestId: string; reason: string }): Promise<void>;
  /** The worker listens: deliver requests and losses from now on. */
  followSession(session: SessionId): void;
  abandon(session: SessionId): Promise<void>;
  /** The worker has the session in its hands: until then the main thread gives it up after a while. */
  claimSession(session: SessionId): void;
  collectionView(argument: undefined): Promise<CollectionView>;
  ringAt(version: number): Promise<RingSpec>;
}

export interface RegistryEvents {
  clusterChanged: ClusterView;
  volumeRequest: { readonly session: SessionId; readonly request: VolumeRequest };
  sessionLost: { readonly session: SessionId; readonly reason: string };
}

/** What both ends start from. */
export interface SharedRegistryState {
  readonly deadlines: SharedArrayBuffer;
  readonly cluster: ClusterView;
}

interface OpenSession {
  /** The worker got the answer to its open. */
  isClaimed?: boolean;
  readonly volume?: VolumeSession;
  readonly snapshot?: SnapshotSession;
  stopDeadlines(): void;
}

const RESOLVE_TIMEOUT_MS = 3_000;

/** The worker's sockets take numbers only; a host that can't be found now keeps its name and can't be reached. */
async function withNumericAddresses(view: ClusterView): Promise<ClusterView> {
  const peers = await Promise.all(
    view.peers.map(async (peer) => {
      const match = /^(adp|http):\/\/([^/]+)\/?$/.exec(peer.address);
      if (match === null) return peer;
      try {
        const numeric = await resolveStreamAddress(match[2] as string, RESOLVE_TIMEOUT_MS);
        return { ...peer, address: `${match[1]}://${numeric}` };
      } catch {
        // The peer counts as unreachable until its name can be found; the next change of the cluster tries again.
        return peer;
      }
    }),
  );
  return { ...view, peers };
}

/** The main thread's end. */
export class RegistryServer {
  readonly deadlines = new SharedArrayBuffer(SESSIONS_MAX * 8);
  readonly #deadlineValues = new Float64Array(this.deadlines);
  readonly #sessions = new Map<SessionId, OpenSession>();
  #view: ClusterView | undefined;
  readonly #slots = new Set<number>();
  #nextId = 1;
  #viewTurn = 0;
  #stopFollowing = () => {};
  #emit: <Name extends keyof RegistryEvents>(name: Name, payload: RegistryEvents[Name]) => void = () => {};

  constructor(private readonly registry: VolumeRegistry) {}

  /** Resolves when the hosts of all peers were looked up once. */
  async ready(): Promise<void> {
    this.#view = await withNumericAddresses(this.registry.cluster());
  }

  /** Starts delivering events; called once the worker runs. */
  connect(
    emit: <Name extends keyof RegistryEvents>(name: Name, payload: RegistryEvents[Name]) => void,
  ): void {
    this.#emit = emit;
    this.#stopFollowing = this.registry.onClusterChange((view) => this.#follow(view));
    this.#follow(this.registry.cluster());
  }

  state(): SharedRegistryState {
    return { deadlines: this.deadlines, cluster: this.#view ?? this.registry.cluster() };
  }

  close(): void {
    this.#stopFollowing();
    for (const id of [...this.#sessions.keys()]) this.#remove(id);
  }

  /** Views are told in order, each once its hosts are looked up; the next change makes up for one that is late. */
  #follow(view: ClusterView): void {
    const turn = ++this.#viewTurn;
    void withNumericAddresses(view).then((numeric) => {
      if (turn === this.#viewTurn) this.#emit("clusterChanged", numeric);
    });
  }

  get openCount(): number {
    return this.#sessions.size;
  }

  readonly methods: RegistryMethods = {
    openVolume: async ({ name, holder, options }) => {
      const volume = await this.registry.openVolume(name, holder, options);
      const session = this.#add((id) => ({ volume, stopDeadlines: this.#shareDeadline(id, volume.lease) }));
      return { session, grant: volume.grant };
    },
    openSnapshot: async ({ name, snapshotName, holder }) => {
      const snapshot = await this.registry.openSnapshot(name, snapshotName, holder);
      const session = this.#add((id) => ({
        snapshot,
        stopDeadlines: this.#shareDeadline(id, snapshot.lease),
      }));
      return { session, volume: snapshot.volume, snapshot: snapshot.snapshot };
    },
    closeSnapshot: async (id) => {
      const session = this.#sessions.get(id);
      this.#remove(id);
      await session?.snapshot?.close();
    },
    commitHead: ({ session, revision, head, answeredRequestId }) =>
      this.#volume(session).commitHead(revision, head, answeredRequestId),
    commitDetach: async ({ session, revision, head }) => {
      const outcome = await this.#volume(session).commitDetach(revision, head);
      // After a refusal the session is still the caller's, who abandons it.
      if (outcome.kind === "committed") this.#remove(session);
      return outcome;
    },
    commitSnapshot: ({ session, revision, head, requestId }) =>
      this.#volume(session).commitSnapshot(revision, head, requestId),
    rejectRequest: ({ session, requestId, reason }) => this.#volume(session).rejectRequest(requestId, reason),
    followSession: (id) => {
      const session = this.#sessions.get(id);
      const isOpen = () => this.#sessions.get(id) === session;
      session?.volume?.onRequest((request) => {
        if (isOpen()) this.#emit("volumeRequest", { session: id, request });
      });
      const lost = (reason: string) => {
        if (isOpen()) this.#emit("sessionLost", { session: id, reason });
      };
      session?.volume?.onLost(lost);
      session?.snapshot?.onLost(lost);
    },
    abandon: async (id) => {
      const session = this.#sessions.get(id);
      this.#remove(id);
      await session?.volume?.abandon();
    },
    claimSession: (id) => {
      const session = this.#sessions.get(id);
      if (session !== undefined) session.isClaimed = true;
    },
    collectionView: () => this.registry.collectionView(),
    ringAt: (version) => this.registry.ringAt(version),
  };

  #volume(id: SessionId): VolumeSession {
    const volume = this.#sessions.get(id)?.volume;
    if (volume === undefined)
      throw new TorusError("session-closed", `Cannot use session ${id} of a volume: it has ended`);
    return volume;
  }

  #add(make: (id: SessionId) => OpenSession): SessionId {
    if (this.#sessions.size >= SESSIONS_MAX)
      throw new TorusError(
        "too-many-sessions",
        `Cannot open more than ${SESSIONS_MAX} volumes in one process`,
      );
    // Numbers only grow, so that a late call of a session that ended never meets another.
    while (this.#slots.has(slotOf(this.#nextId))) this.#nextId++;
    const id = this.#nextId++;
    const session = make(id);
    this.#slots.add(slotOf(id));
    this.#sessions.set(id, session);
    // A worker that had given the call up already will never close what it does not know of.
    systemClock.schedule(CLAIM_MS, () => {
      if (this.#sessions.get(id) === session && !session.isClaimed) void this.#giveUp(id, session);
    });
    return id;
  }

  async #giveUp(id: SessionId, session: OpenSession): Promise<void> {
    this.#remove(id);
    try {
      await session.volume?.abandon();
      await session.snapshot?.close();
    } catch {
      // The lock goes with its lease, which nobody renews any more.
    }
  }

  #remove(id: SessionId): void {
    const session = this.#sessions.get(id);
    if (session === undefined) return;
    session.stopDeadlines();
    this.#deadlineValues[slotOf(id)] = 0;
    this.#slots.delete(slotOf(id));
    this.#sessions.delete(id);
  }

  /** Shows a lease's deadline to the worker until the session ends; its slot is then another's. */
  #shareDeadline(id: SessionId, lease: LeaseState): () => void {
    assert(
      lease.onDeadline !== undefined,
      "a lease that does not tell of its changes can't be shown to a thread",
    );
    const values = this.#deadlineValues;
    let isShown = true;
    const slot = slotOf(id);
    values[slot] = lease.deadlineMs();
    lease.onDeadline((deadlineMs) => {
      if (isShown) values[slot] = deadlineMs;
    });
    return () => {
      isShown = false;
    };
  }
}

/** How the worker calls the main thread; satisfied by its RpcEndpoint. */
export interface RegistryCaller {
  call<Name extends keyof RegistryMethods>(
    method: Name,
    argument: Parameters<RegistryMethods[Name]>[0],
    timeoutMs?: number,
  ): Promise<Awaited<ReturnType<RegistryMethods[Name]>>>;
  on<Name extends keyof RegistryEvents>(name: Name, listener: (payload: RegistryEvents[Name]) => void): void;
}

interface SessionListeners {
  readonly requests: ((request: VolumeRequest) => void)[];
  readonly losses: ((reason: string) => void)[];
  followed: boolean;
}

/** The worker's end: the VolumeRegistry that the engine is given. */
export class RemoteRegistry implements VolumeRegistry {
  readonly #deadlines: Float64Array;
  readonly #listeners = new Map<SessionId, SessionListeners>();
  readonly #clusterListeners = new Set<(view: ClusterView) => void>();
  #cluster: ClusterView;

  constructor(
    private readonly main: RegistryCaller,
    state: SharedRegistryState,
  ) {
    this.#deadlines = new Float64Array(state.deadlines);
    this.#cluster = state.cluster;
    main.on("clusterChanged", (view) => {
      this.#cluster = view;
      for (const listener of this.#clusterListeners) listener(view);
    });
    main.on("volumeRequest", ({ session, request }) => {
      for (const listener of this.#listeners.get(session)?.requests ?? []) listener(request);
    });
    main.on("sessionLost", ({ session, reason }) => {
      const listeners = this.#listeners.get(session);
      if (listeners === undefined) return;
      for (const listener of listeners.losses) listener(reason);
    });
  }

  cluster(): ClusterView {
    return this.#cluster;
  }

  onClusterChange(listener: (view: ClusterView) => void): () => void {
    this.#clusterListeners.add(listener);
    return () => this.#clusterListeners.delete(listener);
  }

  ringAt(version: number): Promise<RingSpec> {
    return this.main.call("ringAt", version, CALL_TIMEOUT_MS);
  }

  collectionView(): Promise<CollectionView> {
    return this.main.call("collectionView", undefined, CALL_TIMEOUT_MS);
  }

  async openVolume(name: string, holder: string, options: OpenOptions = {}): Promise<VolumeSession> {
    const timeoutMs = CALL_TIMEOUT_MS + (options.waitForLockMs ?? 0);
    const { session, grant } = await this.main.call("openVolume", { name, holder, options }, timeoutMs);
    await this.main.call("claimSession", session, CALL_TIMEOUT_MS);
    return new RemoteVolumeSession(this, this.main, session, grant, this.#lease(session));
  }

  async openSnapshot(name: string, snapshotName: string, holder: string): Promise<SnapshotSession> {
    const opened = await this.main.call("openSnapshot", { name, snapshotName, holder }, CALL_TIMEOUT_MS);
    await this.main.call("claimSession", opened.session, CALL_TIMEOUT_MS);
    return {
      volume: opened.volume,
      snapshot: opened.snapshot,
      lease: this.#lease(opened.session),
      onLost: (listener) => this.listen(opened.session).losses.push(listener),
      close: async () => {
        this.forget(opened.session);
        await this.main.call("closeSnapshot", opened.session, CALL_TIMEOUT_MS);
      },
    };
  }

  /** Listeners of a session, which the main thread is asked to feed from the first use on. */
  listen(session: SessionId): SessionListeners {
    let listeners = this.#listeners.get(session);
    if (listeners === undefined) {
      listeners = { requests: [], losses: [], followed: false };
      this.#listeners.set(session, listeners);
    }
    return listeners;
  }

  /** Asks for events, after the listeners are in place. */
  follow(session: SessionId): void {
    const listeners = this.listen(session);
    if (listeners.followed) return;
    listeners.followed = true;
    this.main.call("followSession", session, CALL_TIMEOUT_MS).catch((error: unknown) => {
      const reason = error instanceof Error ? error.message : String(error);
      for (const listener of listeners.losses) listener(reason);
    });
  }

  forget(session: SessionId): void {
    this.#listeners.delete(session);
  }

  #lease(session: SessionId): LeaseState {
    assert(session >= 0, `session ${session} is out of range`);
    const deadlines = this.#deadlines;
    const slot = slotOf(session);
    return { deadlineMs: () => deadlines[slot] as number };
  }
}

class RemoteVolumeSession implements VolumeSession {
  constructor(
    private readonly owner: RemoteRegistry,
    private readonly main: RegistryCaller,
    private readonly session: SessionId,
    readonly grant: OpenGrant,
    readonly lease: LeaseState,
  ) {}

  commitHead(revision: number, head: Head, answeredRequestId?: string): Promise<CommitOutcome> {
    const argument = { session: this.session, revision, head };
    return this.main.call(
      "commitHead",
      answeredRequestId === undefined ? argument : { ...argument, answeredRequestId },
      CALL_TIMEOUT_MS,
    );
  }

  async commitDetach(revision: number, head: Head): Promise<CommitOutcome> {
    const argument = { session: this.session, revision, head };
    const outcome = await this.main.call("commitDetach", argument, CALL_TIMEOUT_MS);
    if (outcome.kind === "committed") this.owner.forget(this.session);
    return outcome;
  }

  commitSnapshot(revision: number, head: Head, requestId: string): Promise<CommitOutcome> {
    return this.main.call(
      "commitSnapshot",
      { session: this.session, revision, head, requestId },
      CALL_TIMEOUT_MS,
    );
  }

  rejectRequest(requestId: string, reason: string): Promise<void> {
    return this.main.call("rejectRequest", { session: this.session, requestId, reason }, CALL_TIMEOUT_MS);
  }

  onRequest(listener: (request: VolumeRequest) => void): void {
    this.owner.listen(this.session).requests.push(listener);
    this.owner.follow(this.session);
  }

  onLost(listener: (reason: string) => void): void {
    this.owner.listen(this.session).losses.push(listener);
    this.owner.follow(this.session);
  }

  async abandon(): Promise<void> {
    this.owner.forget(this.session);
    await this.main.call("abandon", this.session, CALL_TIMEOUT_MS);
  }
}
