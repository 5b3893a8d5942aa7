/**
 * The ring's versions. The current one lies beside the peers, where one watch follows both; every version is kept,
 * because heads name the version that places their tail. A change is a compare-and-set: versions grow by one and
 * never go back.
 */
import type { PeerSettings, RingSpec } from "../../ring";

import { MetaError } from "../errors";
import { decodePeer, decodeRing, encodePeer, encodeRing } from "./codec";
import { notInitialised } from "./cluster-settings";
import type { Operation } from "../kv";
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
   * caller plans anew on the current ring. What it sets of one peer goes into the peer's record in the same
   * transaction, so that ring and record never say different things.
   */
  async change(next: RingSpec, settings?: PeerSettings): Promise<void> {
    const { store, random } = this.#context;
    const token = random.hex(8);
    await repeat(this.#context, { what: "change the ring" }, async () => {
      const wanted = [keys.ring, keys.ringVersion(next.version)];
      if (settings !== undefined) wanted.push(keys.peer(settings.peerId));
      const [entry, old, peer] = await readAll(store, wanted);
      if (entry === undefined) throw notInitialised(store.description);
      const current = decodeRing(entry);
      if (current.token === token || (old !== undefined && decodeRing(old).token === token)) return;
      if (current.spec.version !== next.version - 1)
        throw new MetaError(
          "ring-changed",
          `Cannot change the ring to version ${next.version}: it is at version ${current.spec.version} by now; look at it and try again`,
        );
      const value = encodeRing(next, token);
      const compares = [unchanged(keys.ring, entry), unchanged(keys.ringVersion(next.version), old)];
      const operations: Operation[] = [
        { kind: "put", key: keys.ring, value },
        { kind: "put", key: keys.ringVersion(next.version), value },
      ];
      // A member whose record was removed by hand is still a member.
      if (settings !== undefined && peer !== undefined) {
        compares.push(unchanged(keys.peer(settings.peerId), peer));
        operations.push({
          kind: "put",
          key: keys.peer(settings.peerId),
          value: encodePeer({ ...decodePeer(peer), ...settings }),
        });
      }
      const result = await store.transact({ compares, operations });
      return result.committed ? undefined : again;
    });
  }
}
