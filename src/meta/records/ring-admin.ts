/**
 * The ring's versions. The current one lies beside the peers, where one watch follows both; every version is kept,
 * because heads name the version that places their tail. A change is a compare-and-set: versions grow by one and
 * never go back.
 */
import type { RingSpec } from "../../ring";
import { MetaError } from "../errors";
import { decodeRing, encodeRing } from "./codec";
import { notInitialised } from "./cluster-settings";
import { again, type MetaContext, readAll, repeat, unchanged } from "./context";
import { keys } from "./layout";

export class RingAdmin {
  readonly #context: MetaContext;

  constructor(context: MetaContext) {
    this.#context = context;
  }

  async current(): Promise<RingSpec> {
    const entry = await this.#context.store.get(keys.ring);
    if (entry === undefined) throw notInitialised(this.#context.store.description);
    return decodeRing(entry).spec;
  }

  /** Throws "no-such-ring". */
  async at(version: number): Promise<RingSpec> {
    const entry = await this.#context.store.get(keys.ringVersion(version));
    if (entry === undefined)
      throw new MetaError(
        "no-such-ring",
        `Cannot find ring version ${version} in ${this.#context.store.description}`,
      );
    return decodeRing(entry).spec;
  }

  /**
   * Puts `next` in force if `next.version - 1` is the current version; throws "ring-changed" otherwise, and the
   * caller plans anew on the current ring.
   */
  async change(next: RingSpec): Promise<void> {
    const { store, random } = this.#context;
    const token = random.hex(8);
    await repeat(this.#context, { what: "change the ring" }, async () => {
      const [entry, old] = await readAll(store, [keys.ring, keys.ringVersion(next.version)]);
      if (entry === undefined) throw notInitialised(store.description);
      const current = decodeRing(entry);
      if (current.token === token || (old !== undefined && decodeRing(old).token === token)) return;
      if (current.spec.version !== next.version - 1)
        throw new MetaError(
          "ring-changed",
          `Cannot change the ring to version ${next.version}: it is at version ${current.spec.version} by now; look at it and try again`,
        );
      const value = encodeRing(next, token);
      const result = await store.transact({
        compares: [unchanged(keys.ring, entry), unchanged(keys.ringVersion(next.version), old)],
        operations: [
          { kind: "put", key: keys.ring, value },
          { kind: "put", key: keys.ringVersion(next.version), value },
        ],
      });
      return result.committed ? undefined : again;
    });
  }
}
