/**
 * Durability for clients that cannot ask for it. AoE clients of the Linux kernel never send a flush, so a write is
 * answered only once it is durable. One flush serves all writes that were done when it began: a seal and a round trip
 * to the peers for many frames, not for each.
 */
import type { BlockDevice, Done } from "../device";

export class WriteThrough {
  #next: Done[] = [];
  #flushing = false;

  constructor(private readonly device: BlockDevice) {}

  /** Calls back when what the device has done up to now is durable, or with why it is not. */
  sync(done: Done): void {
    this.#next.push(done);
    if (!this.#flushing) this.#flush();
  }

  #flush(): void {
    const served = this.#next;
    this.#next = [];
    this.#flushing = true;
    this.device.flush((status) => {
      this.#flushing = false;
      for (const done of served) done(status);
      if (this.#next.length > 0 && !this.#flushing) this.#flush();
    });
  }
}
