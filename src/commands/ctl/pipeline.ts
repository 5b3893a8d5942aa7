/** Several pieces of a volume under way at once, so that a command does not wait for each. */

const PIECES_AHEAD = 8;

/** Pieces in flight, waited for in order; the first failure is thrown by the next call. */
export class Pipeline {
  readonly #pieces: Promise<void>[] = [];

  async push(piece: Promise<void>): Promise<void> {
    piece.catch(() => undefined);
    this.#pieces.push(piece);
    if (this.#pieces.length > PIECES_AHEAD) await this.#pieces.shift();
  }

  async drain(): Promise<void> {
    for (const piece of this.#pieces.splice(0)) await piece;
  }
}
