/** What is decided once for a whole cluster: its random id (R12), the block size and the blockset's layers. */
import { formatCount, parseClusterId } from "../../base";
import type { RingSpec } from "../../ring";
import { MetaError, usageError } from "../errors";
import {
  type ClusterSettingsRecord,
  decodeSettings,
  encodeCounter,
  encodeRing,
  encodeSettings,
} from "./codec";
import { again, type MetaContext, readAll, repeat, unchanged } from "./context";
import { keys, parseVolumeKey, ROOT } from "./layout";

export interface ClusterInit {
  /** A power of two, 64 KiB to 16 MiB. */
  readonly blockSizeBytes: number;
  readonly blockSpec: string;
  /** The first ring; its version becomes 1. */
  readonly ring: Omit<RingSpec, "version">;
}

export const BLOCK_SIZE_BYTES_MIN = 64 * 1024;
export const BLOCK_SIZE_BYTES_MAX = 16 * 1024 * 1024;

export function notInitialised(description: string): MetaError {
  return new MetaError(
    "not-initialised",
    `Cannot use the cluster in ${description}: it was never initialised; run torus ctl init`,
  );
}

export class ClusterSettings {
  readonly #context: MetaContext;

  constructor(context: MetaContext) {
    this.#context = context;
  }

  /** Undefined before init. */
  async find(): Promise<ClusterSettingsRecord | undefined> {
    const entry = await this.#context.store.get(keys.settings);
    return entry === undefined ? undefined : decodeSettings(entry);
  }

  async get(): Promise<ClusterSettingsRecord> {
    const settings = await this.find();
    if (settings === undefined) throw notInitialised(this.#context.store.description);
    return settings;
  }

  /** Throws "already-initialised", also when another init won a race. */
  async init(options: ClusterInit): Promise<ClusterSettingsRecord> {
    const { store, clock, random } = this.#context;
    const size = options.blockSizeBytes;
    if (size < BLOCK_SIZE_BYTES_MIN || size > BLOCK_SIZE_BYTES_MAX || (size & (size - 1)) !== 0)
      throw usageError(
        "bad-settings",
        `Cannot initialise with a block size of ${size} B: it must be a power of two of 64 KiB to 16 MiB`,
      );
    const settings: ClusterSettingsRecord = {
      clusterId: parseClusterId(random.uuid()),
      blockSizeBytes: size,
      blockSpec: options.blockSpec,
      createdMs: clock.wallMs(),
    };
    const ring = encodeRing({ ...options.ring, version: 1 }, random.hex(8));
    return repeat(this.#context, { what: "initialise the cluster" }, async () => {
      const [found, counter, current] = await readAll(store, [keys.settings, keys.counter, keys.ring]);
      if (found !== undefined) {
        const existing = decodeSettings(found);
        if (existing.clusterId === settings.clusterId) return settings;
        throw new MetaError(
          "already-initialised",
          `Cannot initialise ${store.description}: it holds cluster ${existing.clusterId} already`,
        );
      }
      const result = await store.transact({
        compares: [
          unchanged(keys.settings, undefined),
          unchanged(keys.counter, counter),
          unchanged(keys.ring, current),
        ],
        operations: [
          { kind: "put", key: keys.settings, value: encodeSettings(settings) },
          { kind: "put", key: keys.counter, value: encodeCounter(0) },
          { kind: "put", key: keys.ring, value: ring },
          { kind: "put", key: keys.ringVersion(1), value: ring },
        ],
      });
      return result.committed ? settings : again;
    });
  }

  /**
   * Forgets the whole cluster. Refused with "volume-attached" while a volume is locked or a peer is registered,
   * unless forced. The blocks on the peers stay, of a cluster that nothing knows any more.
   */
  async wipe(options: { readonly force?: boolean } = {}): Promise<void> {
    const { store } = this.#context;
    await repeat(this.#context, { what: "wipe the cluster" }, async () => {
      if (options.force !== true) {
        const [volumes, live] = await Promise.all([
          store.range(keys.volumesPrefix),
          store.range(keys.livePrefix),
        ]);
        const locks = volumes.entries.filter((entry) => parseVolumeKey(entry.key)?.rest === "lock");
        if (locks.length > 0 || live.entries.length > 0)
          throw new MetaError(
            "volume-attached",
            `Cannot wipe the cluster: it is in use, with ${formatCount(locks.length, "volume")} attached and ${formatCount(live.entries.length, "peer")} running; detach the volumes and stop the daemons first`,
          );
      }
      await store.transact({ compares: [], operations: [{ kind: "delete-prefix", prefix: ROOT }] });
    });
  }
}
