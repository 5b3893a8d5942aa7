/**
 * The peers: a lasting record each, and an exclusive lease-bound key while the peer runs. Registration is also
 * where a disk that was rolled back is found out (R5): its boot count must be above every one recorded for its
 * incarnation, and its progress no less than was recorded (a disk that was put back to an earlier moment of its last
 * start has the boot count that it should have), or the store may have forgotten what it acknowledged and has to take
 * a new incarnation.
 */
import type { Incarnation, PeerId } from "../../base";
import type { PeerRecord } from "../../engine";
import { checkPeerSettings, type PeerSettings } from "../../ring";
import { MetaError } from "../errors";
import { decodePeer, decodeRing, encodePeer, MEMBERS_MAX, type DiskLife, type StoredPeer } from "./codec";
import { again, type MetaContext, readAll, repeat, unchanged } from "./context";
import { decodeRecord, encodeRecord } from "./fields";
import { keys } from "./layout";
import { type KeyState, type LeaseTimes, LeaseKeeper } from "./lease-keeper";

export interface PeerEntry extends PeerRecord {
  readonly bootCount: number;
  /** What a ring takes as its weight when the peer is added. */
  readonly weight: number;
  readonly updatedMs: number;
  readonly statistics: unknown;
}

export interface PeerDescription {
  readonly peerId: PeerId;
  readonly address: string;
  readonly incarnation: Incarnation;
  /** Of this start, durable in the superblock before the registration. */
  readonly bootCount: number;
  /** Of the store, durable. */
  readonly progress: number;
  /** As configured; absent: what the record says, at first "". */
  readonly zone?: string;
  /** As configured; absent: what the record says, at first the capacity in GiB. */
  readonly weight?: number;
  readonly capacityBytes: number;
  readonly usedBytes: number;
  /** Names the process, for `isDead`. */
  readonly holder?: string;
  /** Whether an earlier registration's holder is provably gone: then nobody waits for its lease. */
  readonly isDead?: (holder: string) => boolean;
}

export interface PeerReport {
  readonly usedBytes: number;
  /** Of the store, durable. */
  readonly progress: number;
  readonly capacityBytes?: number;
  /** JSON, at most `STATISTICS_BYTES_MAX`. */
  readonly statistics?: unknown;
}

export const STATISTICS_BYTES_MAX = 16 * 1024;
/** A peer counts as down this long after its process ended; short, since only status and placement hints use it. */
export const PEER_LEASE_TIMES: LeaseTimes = { ttlMs: 10_000, marginMs: 1_000 };

export function peerEntry(stored: StoredPeer, live: boolean): PeerEntry {
  const { peerId, address, incarnation, zone, capacityBytes, usedBytes, bootCount, weight } = stored;
  const { updatedMs, statistics } = stored;
  return {
    ...{ peerId, address, incarnation, zone, capacityBytes, usedBytes },
    ...{ live, bootCount, weight, updatedMs, statistics },
  };
}

export class PeerDirectory {
  readonly #context: MetaContext;

  constructor(context: MetaContext) {
    this.#context = context;
  }

  /** Every peer ever registered and not forgotten, by id. A damaged record is left out and named in `damage`. */
  async list(): Promise<{ readonly peers: PeerEntry[]; readonly damage: MetaError[] }> {
    const { entries } = await this.#context.store.range(keys.clusterPrefix);
    const live = new Set(
      entries
        .filter((entry) => entry.key.startsWith(keys.livePrefix))
        .map((entry) => entry.key.slice(keys.livePrefix.length)),
    );
    const peers: PeerEntry[] = [];
    const damage: MetaError[] = [];
    for (const entry of entries) {
      if (!entry.key.startsWith(keys.peersPrefix)) continue;
      try {
        const stored = decodePeer(entry);
        peers.push(peerEntry(stored, live.has(stored.peerId)));
      } catch (error) {
        if (!(error instanceof MetaError)) throw error;
        damage.push(error);
      }
    }
    return { peers, damage };
  }

  /** Throws "no-such-peer". */
  async get(peerId: PeerId): Promise<PeerEntry> {
    const [entry, live] = await readAll(this.#context.store, [keys.peer(peerId), keys.live(peerId)]);
    if (entry === undefined) throw noSuchPeer(peerId);
    return peerEntry(decodePeer(entry), live !== undefined);
  }

  /**
   * Sets what a ring will take from the record later, of a peer that ring version `ringVersion` does not place blocks
   * on; throws "ring-changed" when that is no longer the current one. For a placing member see RingAdmin.change.
   */
  async update(settings: PeerSettings, ringVersion: number): Promise<void> {
    checkPeerSettings(settings);
    const { store } = this.#context;
    const { peerId } = settings;
    await repeat(this.#context, { what: `change peer ${peerId}` }, async () => {
      const [entry, ring] = await readAll(store, [keys.peer(peerId), keys.ring]);
      if (entry === undefined) throw noSuchPeer(peerId);
      const current = ring === undefined ? 0 : decodeRing(ring).spec.version;
      if (current !== ringVersion)
        throw new MetaError(
          "ring-changed",
          `Cannot change peer ${peerId}: the ring is at version ${current} by now; look at it and try again`,
        );
      const result = await store.transact({
        compares: [unchanged(keys.peer(peerId), entry), unchanged(keys.ring, ring)],
        operations: [
          { kind: "put", key: keys.peer(peerId), value: encodePeer({ ...decodePeer(entry), ...settings }) },
        ],
      });
      return result.committed ? undefined : again;
    });
  }

  /** Removes the record of a peer that is gone. Throws "peer-in-ring" or "peer-registered". */
  async forget(peerId: PeerId): Promise<void> {
    const { store } = this.#context;
    await repeat(this.#context, { what: `forget peer ${peerId}` }, async () => {
      const [entry, live, ring] = await readAll(store, [keys.peer(peerId), keys.live(peerId), keys.ring]);
      if (entry === undefined) return;
      if (live !== undefined)
        throw new MetaError(
          "peer-registered",
          `Cannot forget peer ${peerId}: its daemon is running; stop it first`,
        );
      if (ring !== undefined && decodeRing(ring).spec.members.some((member) => member.peerId === peerId))
        throw new MetaError(
          "peer-in-ring",
          `Cannot forget peer ${peerId}: it is a member of the ring; remove it from there first`,
        );
      const result = await store.transact({
        compares: [
          unchanged(keys.peer(peerId), entry),
          unchanged(keys.live(peerId), undefined),
          unchanged(keys.ring, ring),
        ],
        operations: [{ kind: "delete", key: keys.peer(peerId) }],
      });
      return result.committed ? undefined : again;
    });
  }

  /**
   * Registers a running peer. Throws "peer-registered" while another process holds this id, and "peer-rolled-back"
   * when the boot count is not above the record's: the caller takes a new incarnation and registers again.
   */
  async register(
    description: PeerDescription,
    times: LeaseTimes = PEER_LEASE_TIMES,
  ): Promise<PeerRegistration> {
    const registration = new PeerRegistration(this.#context, description, times);
    await registration.start();
    return registration;
  }
}

const lifeOf = ({ incarnation, bootCount, progress }: StoredPeer): DiskLife => ({
  ...{ incarnation, bootCount, progress },
});

function noSuchPeer(peerId: PeerId): MetaError {
  return new MetaError("no-such-peer", `Cannot find peer ${peerId}: no such peer ever registered`);
}

/** One process's registration; ends with `close`, or is lost when another process took the id over. */
export class PeerRegistration {
  readonly #context: MetaContext;
  readonly #times: LeaseTimes;
  readonly #token: string;
  #description: PeerDescription;
  #statistics: unknown = null;
  #keeper: LeaseKeeper | undefined;
  readonly #lostListeners: ((reason: string) => void)[] = [];

  constructor(context: MetaContext, description: PeerDescription, times: LeaseTimes) {
    this.#context = context;
    this.#description = description;
    this.#times = times;
    this.#token = context.random.hex(16);
  }

  get peerId(): PeerId {
    return this.#description.peerId;
  }

  async start(): Promise<void> {
    const { store, clock } = this.#context;
    const { peerId } = this.#description;
    const sentMs = clock.nowMs();
    const lease = await store.grantLease(this.#times.ttlMs);
    try {
      await repeat(this.#context, { what: `register peer ${peerId}` }, () => this.#put(lease));
    } catch (error) {
      await store.revokeLease(lease).catch(() => undefined);
      throw error;
    }
    this.#keeper = new LeaseKeeper(
      this.#context,
      this.#times,
      {
        check: (current) => this.#check(current),
        retake: (next) => this.#retake(next),
      },
      lease,
      sentMs,
    );
    this.#keeper.onLost((reason) => {
      for (const listener of this.#lostListeners) listener(reason);
    });
  }

  /** Another process registered this peer's id: this one must stop serving. */
  onLost(listener: (reason: string) => void): void {
    if (this.#keeper?.lostReason === undefined) this.#lostListeners.push(listener);
    else listener(this.#keeper.lostReason);
  }

  /** Puts figures into the record; throws "peer-registered" when the registration is not ours now. */
  async report(report: PeerReport): Promise<void> {
    const { store } = this.#context;
    if (report.statistics !== undefined) {
      const lengthBytes = JSON.stringify(report.statistics).length;
      if (lengthBytes > STATISTICS_BYTES_MAX)
        throw new MetaError(
          "too-large",
          `Cannot report ${lengthBytes} bytes of statistics: at most ${STATISTICS_BYTES_MAX} are kept`,
        );
      this.#statistics = report.statistics;
    }
    const { usedBytes, progress, capacityBytes = this.#description.capacityBytes } = report;
    this.#description = { ...this.#description, usedBytes, progress, capacityBytes };
    await repeat(this.#context, { what: `report of peer ${this.peerId}` }, async () => {
      const [entry, live] = await readAll(store, [keys.peer(this.peerId), keys.live(this.peerId)]);
      if (entry === undefined || live === undefined || decodeRecord(live).string("token", 64) !== this.#token)
        throw new MetaError(
          "peer-registered",
          `Cannot report figures of peer ${this.peerId}: its registration ended`,
        );
      const stored = decodePeer(entry);
      const next = {
        ...stored,
        ...{ usedBytes, progress, capacityBytes },
        updatedMs: this.#context.clock.wallMs(),
        statistics: this.#statistics,
      };
      const result = await store.transact({
        compares: [unchanged(keys.peer(this.peerId), entry), unchanged(keys.live(this.peerId), live)],
        operations: [{ kind: "put", key: keys.peer(this.peerId), value: encodePeer(next) }],
      });
      return result.committed ? undefined : again;
    });
  }

  async close(): Promise<void> {
    const keeper = this.#keeper;
    if (keeper === undefined || keeper.lostReason !== undefined) return;
    await keeper.stop();
    await this.#context.store.revokeLease(keeper.lease);
  }

  async #put(lease: string): Promise<KeyState | typeof again> {
    const { store } = this.#context;
    const { peerId } = this.#description;
    const [entry, live] = await readAll(store, [keys.peer(peerId), keys.live(peerId)]);
    if (live !== undefined) {
      const record = decodeRecord(live);
      const isOurs = record.string("token", 64) === this.#token;
      if (isOurs && live.lease === lease) return { kind: "held" };
      const { isDead } = this.#description;
      const isDeadNow = record.has("holder") && isDead?.(record.string("holder")) === true;
      if (!isOurs && !isDeadNow)
        throw new MetaError(
          "peer-registered",
          `Cannot register peer ${peerId}: a daemon with this id is running at ${record.string("address")}; its registration ends ${this.#times.ttlMs / 1000} s after it stops`,
          { retryable: false },
        );
    }
    const stored = entry === undefined ? undefined : decodePeer(entry);
    const next = this.#nextRecord(stored);
    const { holder } = this.#description;
    const value = encodeRecord({
      ...{ token: this.#token, address: next.address },
      ...(holder !== undefined && { holder }),
    });
    const result = await store.transact({
      compares: [unchanged(keys.peer(peerId), entry), unchanged(keys.live(peerId), live)],
      operations: [
        { kind: "put", key: keys.live(peerId), value, lease },
        { kind: "put", key: keys.peer(peerId), value: encodePeer(next) },
      ],
    });
    return result.committed ? { kind: "held" } : again;
  }

  #nextRecord(stored: StoredPeer | undefined): StoredPeer {
    const description = this.#description;
    const { incarnation, bootCount, progress } = description;
    const isSameProcess = stored?.token === this.#token;
    const lives = [...(stored?.pastLives ?? []), ...(stored === undefined ? [] : [lifeOf(stored)])];
    const known = lives.filter((life) => life.incarnation === incarnation);
    const reached = Math.max(0, ...known.map((life) => life.bootCount));
    if (known.length > 0 && bootCount <= reached && !(isSameProcess && bootCount === reached))
      throw new MetaError(
        "peer-rolled-back",
        `Cannot register peer ${description.peerId} as incarnation ${incarnation}: its disk says start ${bootCount}, but start ${reached} was registered; the disk was rolled back or copied, it needs a new incarnation`,
      );
    const recorded = Math.max(0, ...known.map((life) => life.progress));
    if (progress < recorded)
      throw new MetaError(
        "peer-rolled-back",
        `Cannot register peer ${description.peerId} as incarnation ${incarnation}: its disk says progress ${progress}, but progress ${recorded} was reported; the disk was rolled back or copied, it needs a new incarnation`,
      );
    return {
      ...description,
      zone: description.zone ?? stored?.zone ?? "",
      weight: description.weight ?? stored?.weight ?? Math.max(1, description.capacityBytes / 2 ** 30),
      pastLives: lives.filter((life) => life.incarnation !== incarnation).slice(-MEMBERS_MAX),
      token: this.#token,
      updatedMs: this.#context.clock.wallMs(),
      statistics: this.#statistics,
    };
  }

  async #check(lease: string): Promise<KeyState> {
    const [live] = await readAll(this.#context.store, [keys.live(this.peerId)]);
    if (live === undefined) return { kind: "missing" };
    if (decodeRecord(live).string("token", 64) !== this.#token)
      return { kind: "lost", reason: `another daemon registered as peer ${this.peerId}` };
    return live.lease === lease ? { kind: "held" } : { kind: "missing" };
  }

  async #retake(lease: string): Promise<KeyState> {
    try {
      const state = await this.#put(lease);
      return state === again ? { kind: "missing" } : state;
    } catch (error) {
      if (error instanceof MetaError && ["peer-registered", "peer-rolled-back"].includes(error.code))
        return { kind: "lost", reason: error.message };
      throw error;
    }
  }
}
