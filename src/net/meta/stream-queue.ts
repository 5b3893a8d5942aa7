/**
 * Joins callbacks to a consumer that iterates: pushes wait, up to a limit of bytes, until they are taken. Beyond
 * the limit the queue ends after what it holds, so that a slow consumer costs bounded memory and notices.
 */
export class StreamQueue<T> implements AsyncIterable<T> {
  readonly #bytesMax: number;
  readonly #items: { readonly item: T; readonly bytes: number }[] = [];
  #bytes = 0;
  #ended = false;
  #wake: (() => void) | undefined;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** False when the queue has ended and the item was dropped. */
  push(item: T, bytes: number): boolean {
    if (this.#ended) return false;
    // One item alone may be larger than the limit.
    if (this.#items.length > 0 && this.#bytes + bytes > this.#bytesMax) {
      this.end();
      return false;
    }
    this.#items.push({ item, bytes });
    this.#bytes += bytes;
    this.#wake?.();
    return true;
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for (;;) {
      const next = this.#items.shift();
      if (next !== undefined) {
        this.#bytes -= next.bytes;
        yield next.item;
      } else if (this.#ended) return;
      else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }
}
