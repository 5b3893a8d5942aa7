/**
 * A sealed block on its way to its replicas: the one object that is handed to the transport for every peer it is
 * sent to, so that sending allocates nothing per replica. Pooled by whoever owns the buffer; it may be used again
 * once `released` ran, which is when no peer can read the buffer any more.
 */
import { type BlockRef, heapBuffer, type Incarnation, type NativeBuffer, type PeerId } from "../../base";
import type { OutgoingPut, StorageStatus } from "../ports";

export const TryState = {
  outstanding: 0,
  /** Sent long enough ago to walk on; its answer still counts. */
  overdue: 1,
  stored: 2,
  failed: 3,
  full: 4,
} as const;
export type TryState = (typeof TryState)[keyof typeof TryState];

/** One peer the block was sent to. */
export interface Try {
  peer: PeerId;
  incarnation: Incarnation | "";
  state: TryState;
  sentMs: number;
}

const NO_BUFFER: NativeBuffer = heapBuffer(0);

export type AnswerHandler = (
  block: DistributedBlock,
  peer: PeerId,
  incarnation: Incarnation | "",
  status: StorageStatus,
) => void;

export class DistributedBlock implements OutgoingPut {
  ref: BlockRef | undefined;
  buffer: NativeBuffer = NO_BUFFER;
  offset = 0;
  lengthBytes = 0;
  writerEpoch = 0;
  /** Data blocks are acknowledged in index order; INode blocks each by itself. */
  ordered = true;
  /** Enough replicas hold it under the sets in force; looked at again when the sets change. */
  durable = false;
  /** No candidate is left and it is not durable. */
  stuck = false;
  /** Nobody needs it any more: it is let go when no peer can read it. */
  withdrawn = false;
  /** It could not become durable for lack of space, and is not yet. */
  wantsSpace = false;
  submittedMs = 0;
  retryAtMs = 0;
  retryBackoffMs = 0;
  /** Requests at peers whose answer has not come: the buffer is theirs too. */
  outstanding = 0;
  readonly tries: Try[] = [];
  tryCount = 0;
  /** Runs once when the block is acknowledged in order (data) or durable (INode). */
  acknowledged: (() => void) | undefined;
  /** Runs once when no replica is pending any more. */
  released: (() => void) | undefined;
  answered: AnswerHandler | undefined;

  done(peer: PeerId, incarnation: Incarnation | "", status: StorageStatus): void {
    this.answered?.(this, peer, incarnation, status);
  }

  /** Makes it ready for another block; the owner fills the fields after. */
  reset(): void {
    this.durable = false;
    this.stuck = false;
    this.wantsSpace = false;
    this.withdrawn = false;
    this.retryBackoffMs = 0;
    this.outstanding = 0;
    this.tryCount = 0;
    this.acknowledged = undefined;
    this.released = undefined;
  }

  findTry(peer: PeerId): Try | undefined {
    for (let at = 0; at < this.tryCount; at++)
      if ((this.tries[at] as Try).peer === peer) return this.tries[at];
    return undefined;
  }

  addTry(peer: PeerId, nowMs: number): void {
    const at = this.tryCount++;
    const existing = this.tries[at];
    if (!existing) {
      this.tries.push({ peer, incarnation: "", state: TryState.outstanding, sentMs: nowMs });
      return;
    }
    existing.peer = peer;
    existing.incarnation = "";
    existing.state = TryState.outstanding;
    existing.sentMs = nowMs;
  }

  /** Notes a copy that is known to be there, before the block is submitted. */
  addStored(peer: PeerId, incarnation: Incarnation, nowMs: number): void {
    this.addTry(peer, nowMs);
    const one = this.tries[this.tryCount - 1] as Try;
    one.incarnation = incarnation;
    one.state = TryState.stored;
  }

  /** Forgets refusals, so that the same peers are candidates again; requests still out stay known. */
  forgetFailures(): void {
    let kept = 0;
    for (let at = 0; at < this.tryCount; at++) {
      const one = this.tries[at] as Try;
      if (one.state === TryState.failed || one.state === TryState.full) continue;
      const other = this.tries[kept] as Try;
      this.tries[kept++] = one;
      this.tries[at] = other;
    }
    this.tryCount = kept;
  }

  someRefusedForSpace(): boolean {
    for (let at = 0; at < this.tryCount; at++)
      if ((this.tries[at] as Try).state === TryState.full) return true;
    return false;
  }
}
