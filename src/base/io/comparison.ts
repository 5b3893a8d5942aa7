/**
 * Which of two ways of doing a thing brings more bytes in the same time, found by doing both by turns (one, other,
 * other, one, ... so that a load that grows or shrinks favours neither) and then holding to the better for a while. All
 * of its time is time in which the question arose, however much else lay between.
 */

export interface ComparisonOptions {
  /** Long enough for hundreds of requests, short enough that a comparison is over before the load changes. */
  readonly spellMs: number;
  /** Of a spell one way and a spell the other. */
  readonly pairCount: number;
  /** Whether the other way is to be used, by the bytes a ms of each pair. */
  judge(pairs: readonly RatePair[]): boolean;
  /** How long that holds. */
  holdMs(other: boolean): number;
}

/** Bytes a ms one way and the other, in spells that followed each other. */
export interface RatePair {
  readonly one: number;
  readonly other: number;
}

export class Comparison {
  /** The spell under way; all of them while a finding holds. */
  #spell = 0;
  /** Of the spell, or of the finding. */
  #ms = 0;
  #bytes = 0;
  readonly #rates: Float64Array;
  #finding = false;
  #holdMs = 0;

  constructor(private readonly options: ComparisonOptions) {
    this.#rates = new Float64Array(2 * options.pairCount);
  }

  get isComparing(): boolean {
    return this.#spell < this.#rates.length;
  }

  /** Whether to do it the other way now. */
  get isOther(): boolean {
    return this.isComparing ? isOtherSpell(this.#spell) : this.#finding;
  }

  note(elapsedMs: number, receivedBytes: number): void {
    this.#ms += elapsedMs;
    this.#bytes += receivedBytes;
    if (this.#ms < (this.isComparing ? this.options.spellMs : this.#holdMs)) return;
    if (!this.isComparing) return this.restart();
    this.#rates[this.#spell++] = this.#bytes / this.#ms;
    this.#ms = 0;
    this.#bytes = 0;
    if (this.isComparing) return;
    this.#finding = this.options.judge(this.#pairs());
    this.#holdMs = this.options.holdMs(this.#finding);
  }

  /** What was found holds no longer. */
  restart(): void {
    this.#spell = 0;
    this.#ms = 0;
    this.#bytes = 0;
  }

  #pairs(): readonly RatePair[] {
    return Array.from({ length: this.options.pairCount }, (_, pair) => {
      const [first, second] = [this.#rates[2 * pair] as number, this.#rates[2 * pair + 1] as number];
      return isOtherSpell(2 * pair) ? { one: second, other: first } : { one: first, other: second };
    });
  }
}

function isOtherSpell(spell: number): boolean {
  return spell % 4 === 1 || spell % 4 === 2;
}
