/**
 * What callers may do with volumes, as a peer remembers it. Who decides is asked once for each caller and volume; its
 * answer is used until the lists change. Requests that come before the answer wait in their order, because a fence
 * must not overtake the puts before it.
 *
 * A refusal is asked anew after a second (the volume may have been cloned for the caller meanwhile). A permission is
 * asked anew after a minute, behind the caller's back: an outage of the metadata stops nobody who works already.
 */
import type { Clock, VolumeId } from "../../base";

/** `read`: of a volume whose clone the caller may use. */
export type Access = "none" | "read" | "use";

export interface AccessDecision {
  readonly access: Access;
  /** For a log. */
  readonly volumeName: string;
}

/** Stands for all volumes at once where a volume is asked about. */
export const EVERY_VOLUME = 0;

export interface AccessGuardOptions {
  readonly clock: Clock;
  /** Rejects when it cannot be told now. */
  readonly decide: (caller: string, volumeId: VolumeId | typeof EVERY_VOLUME) => Promise<AccessDecision>;
  /** Once for each decision that refuses somebody something. */
  readonly onDenied: (caller: string, volumeName: string) => void;
}

const REFUSAL_MS = 1_000;
const PERMISSION_MS = 60_000;
/** Decisions remembered; above it all are forgotten, which costs one question each. */
const REMEMBERED_MAX = 16_384;

/** `undefined`: it cannot be told now. */
type Waiting = (access: Access | undefined) => void;

interface Remembered {
  decision: AccessDecision | undefined;
  untilMs: number;
  asking: boolean;
  told: boolean;
  readonly waiting: Waiting[];
}

export class AccessGuard {
  readonly #options: AccessGuardOptions;
  #remembered = new Map<string, Remembered>();

  constructor(options: AccessGuardOptions) {
    this.#options = options;
  }

  /** The lists changed: every caller is asked about anew. */
  forget(): void {
    this.#remembered = new Map();
  }

  /** Calls back once: within the call when the answer is known, else in the order of the calls. */
  check(caller: string, volumeId: VolumeId | typeof EVERY_VOLUME, done: Waiting): void {
    const one = this.#entry(caller, volumeId);
    const { decision } = one;
    const isCurrent = decision !== undefined && this.#options.clock.nowMs() < one.untilMs;
    if (!isCurrent && !one.asking) this.#ask(one, caller, volumeId);
    // A permission goes on while it is asked anew.
    if (decision !== undefined && (isCurrent || decision.access !== "none")) return done(decision.access);
    one.waiting.push(done);
  }

  /** Something was refused on the strength of what is remembered. */
  denied(caller: string, volumeId: VolumeId | typeof EVERY_VOLUME): void {
    const one = this.#entry(caller, volumeId);
    if (one.told || one.decision === undefined) return;
    one.told = true;
    this.#options.onDenied(caller, one.decision.volumeName);
  }

  #entry(caller: string, volumeId: number): Remembered {
    const key = `${volumeId} ${caller}`;
    let one = this.#remembered.get(key);
    if (one === undefined) {
      if (this.#remembered.size >= REMEMBERED_MAX) this.forget();
      one = { decision: undefined, untilMs: 0, asking: false, told: false, waiting: [] };
      this.#remembered.set(key, one);
    }
    return one;
  }

  #ask(one: Remembered, caller: string, volumeId: VolumeId | typeof EVERY_VOLUME): void {
    one.asking = true;
    this.#options.decide(caller, volumeId).then(
      (decision) => {
        const lifeMs = decision.access === "none" ? REFUSAL_MS : PERMISSION_MS;
        one.untilMs = this.#options.clock.nowMs() + lifeMs;
        one.decision = decision;
        one.told = false;
        this.#answer(one, decision.access);
      },
      () => {
        // Asked again by the next request; an older permission stays in force, a refusal is no answer any more.
        if (one.decision?.access === "none") one.decision = undefined;
        this.#answer(one, one.decision?.access);
      },
    );
  }

  #answer(one: Remembered, access: Access | undefined): void {
    one.asking = false;
    for (const done of one.waiting.splice(0)) done(access);
  }
}
