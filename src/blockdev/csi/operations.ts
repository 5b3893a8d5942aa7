/**
 * One operation at a time on a volume, as the specification asks: a second one is answered "aborted", and the
 * orchestrator comes again. Two of them would otherwise see each other's half-done work.
 */
import { CsiError } from "./errors";

export class Operations {
  readonly #busy = new Set<string>();

  async run<T>(name: string, work: () => Promise<T>): Promise<T> {
    if (this.#busy.has(name))
      throw new CsiError("aborted", `Cannot work on "${name}" now: another operation on it is under way`, {
        retryable: true,
      });
    this.#busy.add(name);
    try {
      return await work();
    } finally {
      this.#busy.delete(name);
    }
  }
}
