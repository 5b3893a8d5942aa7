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
import { nextRing, type PeerSettings, peerSettingsOf, type RingChange, type RingSpec } from "../../ring";
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

export interface OpenStoreOptions {
  /** A SQLite file that is not there is made. */
  readonly make?: boolean;
}

/** Opens the store that the location names; the caller closes it. */
export function openStore(location: MetaLocation, options: OpenStoreOptions = {}): Promise<KeyValueStore> {
  return openMetadataStore(location, systemClock, options.make === true);
}

/** Opens the metadata the flags lead to, does the work, closes it. */
export async function withMetadata<T>(
  flags: MetaFlags,
  work: (metadata: Metadata) => Promise<T>,
  options: OpenStoreOptions = {},
): Promise<T> {
  const store = await openStore(await resolveMetaLocation(flags), options);
  try {
    return await work(metadataOver(store));
  } finally {
    await store.close();
  }
}

/** Changes in the ring by others are met with a new try on top of them. */
const RING_ROUNDS_MAX = 20;

/** Puts a change of the ring in force, on top of whatever others changed meanwhile. */
export function changeRing(metadata: Metadata, change: RingChange): Promise<RingSpec> {
  return onCurrentRing(metadata, (current) => putChange(metadata, current, change));
}

async function putChange(metadata: Metadata, current: RingSpec, change: RingChange): Promise<RingSpec> {
  const next = nextRing(current, change);
  await metadata.ring.change(next, peerSettingsOf(change));
  return next;
}

/** What a change of one peer's settings came to: at once, or when it is added, or when it is undrained. */
export interface PeerChanged {
  readonly ring: RingSpec;
  readonly takesEffect: "now" | "when added" | "when undrained";
}

/** Sets weight or zone of a peer in ring and record; of one that holds no blocks by this ring, in its record. */
export function changePeer(
  metadata: Metadata,
  change: Extract<RingChange, { kind: "set-weight" | "set-zone" }>,
): Promise<PeerChanged> {
  return onCurrentRing(metadata, async (current) => {
    const member = current.members.find((one) => one.peerId === change.peerId);
    const isDrained = change.kind === "set-weight" && member?.weight === 0;
    if (member !== undefined && !isDrained)
      return { ring: await putChange(metadata, current, change), takesEffect: "now" };
    await metadata.peers.update(peerSettingsOf(change) as PeerSettings, current.version);
    return { ring: current, takesEffect: isDrained ? "when undrained" : "when added" };
  });
}

/** Does the work on the current ring, again when somebody else changed it meanwhile. */
async function onCurrentRing<T>(metadata: Metadata, work: (current: RingSpec) => Promise<T>): Promise<T> {
  for (let round = 0; round < RING_ROUNDS_MAX; round++) {
    try {
      return await work(await metadata.ring.current());
    } catch (error) {
      if (!isMetaError(error, "ring-changed")) throw error;
    }
  }
  throw new CommandError("conflict", "Cannot change the ring: others keep changing it; try again");
}
