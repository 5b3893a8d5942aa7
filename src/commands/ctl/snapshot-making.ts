/** What several commands need of snapshots: their names, and how one is made whoever has the volume. */
import { isMetaError } from "../../meta";
import { UsageError } from "../cli";
import type { Client } from "../client";
import { parseExportName } from "../data-plane";

/** `volume@snapshot`, both named. */
export function parseSnapshotName(text: string): { readonly volume: string; readonly snapshot: string } {
  const { volume, snapshot } = parseExportName(text);
  if (volume === "" || snapshot === undefined || snapshot === "")
    throw new UsageError(`Cannot read "${text}" as a snapshot: give VOLUME@SNAPSHOT`);
  return { volume, snapshot };
}

/**
 * Makes a snapshot, whoever has the volume attached. A detached volume whose log has a tail (its writer crashed) is
 * opened and detached first, which needs its peers.
 */
export async function makeSnapshot(
  client: () => Promise<Client>,
  metadata: Client["metadata"],
  volume: string,
  snapshot: string,
  lease?: string,
): Promise<Awaited<ReturnType<Client["metadata"]["snapshots"]["create"]>>> {
  const options = lease === undefined ? {} : { lease };
  try {
    return await metadata.snapshots.create(volume, snapshot, options);
  } catch (error) {
    if (!isMetaError(error, "volume-has-tail")) throw error;
  }
  const device = await (await client()).plane.openDevice({ volume });
  await device.close();
  return metadata.snapshots.create(volume, snapshot, options);
}
