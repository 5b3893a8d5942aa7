/**
 * What a writer believes of its peers, so that a dead one costs one deadline and not one per block. A peer that
 * failed or kept silent is passed over until a probe answers; one that is full is tried after the others. For reads so
 * is one that others have overtaken, until a read that tries it again is answered in time. All of it is a hint about
 * order and waiting: nothing here decides what counts as durable.
 */
import { type Clock, type Incarnation, type PeerId, type Timer, within } from "../../base";
import { type PeerTransport, StorageStatus } from "../ports";
import { isLowOnSpace } from "../space";

const PROBE_TICK_MS = 100;
const PROBE_BACKOFF_MS_MIN = 250;
const PROBE_BACKOFF_MS_MAX = 5_000;
/** How long a peer that refused for lack of space is tried after the others. */
const FULL_MS = 1_000;
/** How long an answer tells who a peer is now. */
const FRESH_MS = 5_000;
/** How old it may be before the peer is asked again. */
const GREETING_MS = 1_000;
/** How long a peer that is asked because something hangs on its answer has for it. */
const ANSWER_MS = 500;
/** Reads in a row that others answered before a peer did, until it is asked after them. */
const LATE_READS = 3;
/** For how long, at first; twice as long each time that it is still late then. */
const LATE_MS_MIN = 500;
const LATE_MS_MAX = 8_000;
/** How often a peer that is nearly full is asked whether it still is. */
const LOW_PROBE_MS = 500;

interface PeerState {
  suspect: boolean;
  /** It refused, or a probe failed: more than slow. */
  gone: boolean;
  suspectSinceMs: number;
  probeAtMs: number;
  probeBackoffMs: number;
  probing: boolean;
  fullUntilMs: number;
  /** Reads that others answered before it did, since it last answered one in time. */
  lateReads: number;
  lateUntilMs: number;
  lateMs: number;
  /** It said that it is nearly full; asked now and then whether it still is. */
  low: boolean;
  incarnation: Incarnation | "";
  heardAtMs: number;
}

export class PeerHealth {
  readonly #clock: Clock;
  readonly #transport: PeerTransport;
  readonly #states = new Map<PeerId, PeerState>();
  #suspectCount = 0;
  #lowCount = 0;
  /** Peers with late reads. */
  #lateCount = 0;
  #timer: Timer | undefined;
  #closed = false;
  /** Called when a peer became suspect or answers again. */
  onChange: (peer: PeerId, up: boolean) => void = () => {};
  /** Called when a peer became nearly full, or has room again. */
  onSpaceChange: () => void = () => {};

  constructor(clock: Clock, transport: PeerTransport) {
    this.#clock = clock;
    this.#transport = transport;
  }

  get suspectCount(): number {
    return this.#suspectCount;
  }

  isUp(peer: PeerId): boolean {
    const state = this.#states.get(peer);
    return !(state?.suspect ?? false) && this.#transport.isLikelyUp(peer);
  }

  isFull(peer: PeerId): boolean {
    const state = this.#states.get(peer);
    return state !== undefined && state.fullUntilMs > 0 && state.fullUntilMs > this.#clock.nowMs();
  }

  /** Whether anything below need be asked: for whoever has no time to look at every peer. */
  get anyLate(): boolean {
    return this.#lateCount > 0;
  }

  /** Whether reads should go to others first: it answers, if at all, after they would have. Says nothing of writes. */
  isLate(peer: PeerId): boolean {
    const state = this.#states.get(peer);
    return state !== undefined && state.lateReads >= LATE_READS && this.#clock.nowMs() < state.lateUntilMs;
  }

  /** Another peer answered a read before this one, which had been asked long before. */
  late(peer: PeerId): void {
    const state = this.#state(peer);
    if (state.lateReads === 0) this.#lateCount++;
    state.lateReads++;
    if (state.lateReads === LATE_READS) state.lateUntilMs = this.#clock.nowMs() + state.lateMs;
  }

  /** A read asks this peer first. Where it was late that is a trial: until it is answered all others go elsewhere. */
  noteAsked(peer: PeerId | undefined): void {
    const state = peer === undefined ? undefined : this.#states.get(peer);
    if (state === undefined || state.lateReads < LATE_READS) return;
    const nowMs = this.#clock.nowMs();
    if (nowMs < state.lateUntilMs) return;
    state.lateMs = Math.min(state.lateMs * 2, LATE_MS_MAX);
    state.lateUntilMs = nowMs + state.lateMs;
  }

  /** It answered a read in time. */
  prompt(peer: PeerId): void {
    const state = this.#states.get(peer);
    if (state === undefined || state.lateReads === 0) return;
    this.#lateCount--;
    state.lateReads = 0;
    state.lateMs = LATE_MS_MIN;
  }

  /** Whether it has room only for what was begun. */
  isLow(peer: PeerId): boolean {
    return this.#states.get(peer)?.low === true;
  }

  /** What a peer says of its space with an answer. */
  noteSpace(peer: PeerId, low: boolean): void {
    const state = this.#states.get(peer);
    if (state === undefined || state.low === low) return;
    state.low = low;
    this.#lowCount += low ? 1 : -1;
    if (low) state.probeAtMs = this.#clock.nowMs() + LOW_PROBE_MS;
    this.#arm();
    this.onSpaceChange();
  }

  /** How long the peer has not answered; 0 while it is believed up. */
  silentMs(peer: PeerId): number {
    const state = this.#states.get(peer);
    return state?.suspect ? this.#clock.nowMs() - state.suspectSinceMs : 0;
  }

  /** Whether it is known to be gone, rather than only late with an answer. */
  isGone(peer: PeerId): boolean {
    const state = this.#states.get(peer);
    return state?.suspect === true && state.gone;
  }

  /** The incarnation of the peer's last answer, "" while none came. */
  incarnation(peer: PeerId): Incarnation | "" {
    return this.#states.get(peer)?.incarnation ?? "";
  }

  /** The same, but "" unless the answer came a moment ago: a disk may have been lost since. */
  freshIncarnation(peer: PeerId): Incarnation | "" {
    const state = this.#states.get(peer);
    const isFresh =
      state !== undefined && !state.suspect && this.#clock.nowMs() - state.heardAtMs <= FRESH_MS;
    return isFresh ? state.incarnation : "";
  }

  succeeded(peer: PeerId, incarnation: Incarnation | ""): void {
    const state = this.#state(peer);
    this.#heard(state, incarnation);
    state.fullUntilMs = 0;
    this.#clear(peer, state);
  }

  /** It answered, but refused: it is alive all the same. */
  full(peer: PeerId, incarnation: Incarnation | ""): void {
    const state = this.#state(peer);
    this.#heard(state, incarnation);
    state.fullUntilMs = this.#clock.nowMs() + FULL_MS;
    this.#clear(peer, state);
  }

  /** A request ended without an answer (`gone`), or waits too long for one. */
  failed(peer: PeerId, gone: boolean): void {
    const state = this.#state(peer);
    if (gone) state.gone = true;
    if (state.suspect) return;
    const nowMs = this.#clock.nowMs();
    state.suspect = true;
    state.gone = gone;
    state.suspectSinceMs = nowMs;
    state.probeBackoffMs = PROBE_BACKOFF_MS_MIN;
    state.probeAtMs = nowMs + PROBE_BACKOFF_MS_MIN;
    this.#suspectCount++;
    this.#arm();
    this.onChange(peer, false);
  }

  /** Asks a peer that has not answered of late who it is. One that does not answer is silent until it does. */
  greet(peer: PeerId): void {
    const state = this.#state(peer);
    const isKnown = state.incarnation !== "" && this.#clock.nowMs() - state.heardAtMs < GREETING_MS;
    if (!isKnown && !state.suspect && !state.probing && !this.#closed) void this.#probeOne(peer, state);
  }

  /** Asks peers who they are, however lately they answered. When it resolves each has answered or is suspect. */
  async ask(peers: readonly PeerId[]): Promise<void> {
    await Promise.all(peers.map((peer) => this.#askOne(peer, this.#state(peer))));
  }

  /** Asks no more. */
  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #arm(): void {
    if (this.#timer || this.#closed || this.#suspectCount + this.#lowCount === 0) return;
    this.#timer = this.#clock.schedule(PROBE_TICK_MS, () => {
      this.#timer = undefined;
      this.#probe();
      this.#arm();
    });
  }

  async #askOne(peer: PeerId, state: PeerState): Promise<void> {
    if (state.suspect || this.#closed) return;
    const answer = this.#probeOne(peer, state).then(() => true);
    const isInTime = await within(this.#clock, ANSWER_MS, answer);
    if (isInTime === undefined && !this.#closed) this.failed(peer, false);
  }

  /** Asks the suspect peers whose time has come. */
  #probe(): void {
    const nowMs = this.#clock.nowMs();
    for (const [peer, state] of this.#states)
      if ((state.suspect || state.low) && !state.probing && nowMs >= state.probeAtMs)
        void this.#probeOne(peer, state);
  }

  async #probeOne(peer: PeerId, state: PeerState): Promise<void> {
    state.probing = true;
    let answered: Incarnation | "" = "";
    let low = false;
    try {
      const figures = await this.#transport.statistics(peer);
      answered = figures.incarnation;
      low = isLowOnSpace(figures);
    } catch {
      // No answer is the answer: the peer stays suspect and is asked again after the backoff below.
      answered = "";
    }
    state.probing = false;
    if (this.#closed) return;
    if (answered !== "") {
      state.probeAtMs = this.#clock.nowMs() + LOW_PROBE_MS;
      this.noteSpace(peer, low);
      return this.succeeded(peer, answered);
    }
    if (!state.suspect) return this.failed(peer, true);
    state.gone = true;
    state.probeBackoffMs = Math.min(state.probeBackoffMs * 2, PROBE_BACKOFF_MS_MAX);
    state.probeAtMs = this.#clock.nowMs() + state.probeBackoffMs;
  }

  #heard(state: PeerState, incarnation: Incarnation | ""): void {
    if (incarnation === "") return;
    state.incarnation = incarnation;
    state.heardAtMs = this.#clock.nowMs();
  }

  #clear(peer: PeerId, state: PeerState): void {
    if (!state.suspect) return;
    state.suspect = false;
    this.#suspectCount--;
    this.onChange(peer, true);
  }

  #state(peer: PeerId): PeerState {
    let state = this.#states.get(peer);
    if (!state) {
      state = {
        suspect: false,
        gone: false,
        suspectSinceMs: 0,
        probeAtMs: 0,
        probeBackoffMs: PROBE_BACKOFF_MS_MIN,
        probing: false,
        fullUntilMs: 0,
        ...{ lateReads: 0, lateUntilMs: 0, lateMs: LATE_MS_MIN },
        low: false,
        incarnation: "",
        heardAtMs: 0,
      };
      this.#states.set(peer, state);
    }
    return state;
  }
}

/** Whether this answer says that the peer is not there, rather than that it will not do this. */
export function meansDown(status: StorageStatus): boolean {
  return status === StorageStatus.unreachable || status === StorageStatus.unavailable;
}
