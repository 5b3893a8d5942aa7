/**
 * A command's hold on the metadata: opened from the flags, closed when the work is done, with everything written
 * once on top of the key-value port at hand.
 */
import { systemClock, systemRandom } from "../../base/io";
import {
  ClusterSettings,
  isMetaError,
  type KeyValueStore,
  type MetaContext,
  PeerDirectory,
  RingAdmin,
  SnapshotAdmin,
  UpkeepAdmin,
  VolumeAccess,
  VolumeAdmin,
} from "../../meta";
import { openMetadataStore } from "../../net";
import { nextRing, type RingChange, type RingSpec } from "../../ring";
import { CommandError } from "./errors";
import { type MetaFlags, type MetaLocation, resolveMetaLocation } from "./meta-options";

export interface Metadata {
  readonly context: MetaContext;
  readonly settings: ClusterSettings;
  readonly volumes: VolumeAdmin;
  readonly access: VolumeAccess;
  readonly snapshots: SnapshotAdmin;
  readonly peers: PeerDirectory;
  readonly ring: RingAdmin;
  readonly upkeep: UpkeepAdmin;
}

/** Everything on top of one store. */
export function metadataOver(store: KeyValueStore): Metadata {
  const context = { store, clock: systemClock, random: systemRandom };
  return {
    context,
    settings: new ClusterSettings(context),
    volumes: new VolumeAdmin(context),
    access: new VolumeAccess(context),
    snapshots: new SnapshotAdmin(context),
    peers: new PeerDirectory(context),
    ring: new RingAdmin(context),
    upkeep: new UpkeepAdmin(context),
  };
}

/** Opens the store that the location names; the caller closes it. */
export function openStore(location: MetaLocation): Promise<KeyValueStore> {
  return openMetadataStore(location, systemClock);
}

/** Opens the metadata the flags lead to, does the work, closes it. */
export async function withMetadata<T>(
  flags: MetaFlags,
  work: (metadata: Metadata) => Promise<T>,
): Promise<T> {
  const store = await openStore(await resolveMetaLocation(flags));
  try {
    return await work(metadataOver(store));
  } finally {
    await store.close();
  }
}

/** Changes in the ring by others are met with a new try on top of them. */
const RING_ROUNDS_MAX = 20;

/** Puts a change of the ring in force, on top of whatever others changed meanwhile. */
export async function changeRing(metadata: Metadata, change: RingChange): Promise<RingSpec> {
  for (let round = 0; round < RING_ROUNDS_MAX; round++) {
    const next = nextRing(await metadata.ring.current(), change);
    try {
      await metadata.ring.change(next);
      return next;
    } catch (error) {
      if (!isMetaError(error, "ring-changed")) throw error;
    }
  }
  throw new CommandError("conflict", "Cannot change the ring: others keep changing it; try again");
}
