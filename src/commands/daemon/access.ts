/**
 * Who may do what with volumes, decided from the access lists that the metadata has. The peers' block service and the
 * metadata that a daemon keeps ask here about clients; peers and administrators are never asked about.
 *
 * As long as there is no list at all, nothing is read for a decision. Lists are followed; who comes from whom is read
 * when a decision needs it, at most once in a second.
 */
import { systemClock } from "../../base/io";
import { sleep, type VolumeId } from "../../base";
import { type Access, type AccessDecision, EVERY_VOLUME } from "../../engine/peer";
import type { MetaError, StoredVolume, VolumeAccess } from "../../meta";

const LINEAGES_FRESH_MS = 1_000;
/** A volume that nobody knew may have been made just now; looked for no more often than this. */
const LOOK_AGAIN_MS = 100;

/** Undefined: the volume's record cannot be read. */
export type Lineages = ReadonlyMap<VolumeId, Pick<StoredVolume, "name" | "ancestorIds"> | undefined>;
export type Lists = ReadonlyMap<VolumeId, readonly string[]>;

export class AccessPolicy {
  #lists: Lists = new Map();
  #lineages: { readonly atMs: number; readonly reading: Promise<Lineages> } | undefined;
  #unfollow: () => void = () => undefined;

  constructor(private readonly records: VolumeAccess) {}

  /** Resolves when the lists are known; `onChange` is called for every later change. */
  async follow(onChange: () => void, onDamage: (error: MetaError) => void): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#unfollow = this.records.follow((lists) => {
        this.#lists = new Map(lists);
        this.#lineages = undefined;
        resolve();
        onChange();
      }, onDamage);
    });
  }

  stop(): void {
    this.#unfollow();
  }

  /** Whether every client may use every volume. */
  get isOpen(): boolean {
    return this.#lists.size === 0;
  }

  /** Rejects when the metadata cannot be read. */
  async decide(client: string, volumeId: VolumeId | typeof EVERY_VOLUME): Promise<AccessDecision> {
    if (this.isOpen) return { access: "use", volumeName: "" };
    if (volumeId === EVERY_VOLUME) return { access: "none", volumeName: "(all volumes)" };
    const lineages = await this.#lineagesWith(volumeId);
    const volumeName = lineages.get(volumeId)?.name ?? `number ${volumeId}`;
    return { access: decideAccess(this.#lists, lineages, client, volumeId), volumeName };
  }

  async #lineagesWith(volumeId: VolumeId): Promise<Lineages> {
    const nowMs = systemClock.nowMs();
    const last = this.#lineages;
    const known =
      last !== undefined && nowMs - last.atMs < LINEAGES_FRESH_MS ? await last.reading : undefined;
    if (known?.has(volumeId)) return known;
    const waitMs = (last?.atMs ?? 0) + LOOK_AGAIN_MS - nowMs;
    if (waitMs > 0) await sleep(systemClock, waitMs);
    // Somebody else may have begun to read since; what was begun earlier may miss what its client has just made.
    const other = this.#lineages;
    return other !== undefined && other.atMs > nowMs ? other.reading : this.#read();
  }

  #read(): Promise<Lineages> {
    const reading = this.records.lineages();
    this.#lineages = { atMs: systemClock.nowMs(), reading };
    reading.catch(() => {
      if (this.#lineages?.reading === reading) this.#lineages = undefined;
    });
    return reading;
  }
}

/** A clone's client reads the blocks of the volumes it comes from, as they have them in common. */
export function decideAccess(lists: Lists, lineages: Lineages, client: string, volumeId: VolumeId): Access {
  if (mayUse(lists, lineages, client, volumeId)) return "use";
  for (const [cloneId, clone] of lineages)
    if (clone?.ancestorIds.includes(volumeId) && mayUse(lists, lineages, client, cloneId)) return "read";
  return "none";
}

/** By its own list, else that of the nearest volume it comes from. Who comes from where must be known for a yes. */
function mayUse(lists: Lists, lineages: Lineages, client: string, volumeId: VolumeId): boolean {
  const volume = lineages.get(volumeId);
  if (volume === undefined) return false;
  for (const each of [volumeId, ...volume.ancestorIds.toReversed()]) {
    const list = lists.get(each);
    if (list !== undefined) return list.includes(client);
  }
  return true;
}
