/** What a device of the kernel is named by, for whoever may take it over: not by the volume's name, which may change. */
import type { Metadata } from "../cli";
import { parseExportName } from "../data-plane";

const PREFIX = "torus:";

/** `torus:CLUSTER:VOLUMEID`, and for snapshots `@` with when it was made. The device's identifier adds `:NAME`. */
export async function exportIdentity(metadata: Metadata, exportName: string): Promise<string> {
  const { volume, snapshot } = parseExportName(exportName);
  const { clusterId } = await metadata.settings.get();
  const { volumeId } = await metadata.volumes.info(volume);
  const identity = `${PREFIX}${clusterId}:${volumeId}`;
  if (snapshot === undefined) return identity;
  const { createdMs } = await metadata.snapshots.get(volume, snapshot);
  return `${identity}@${createdMs}`;
}

/** The export's name when it was attached; undefined for a device that is not torus's. */
export function exportNameOf(identifier: string): string | undefined {
  return /^torus:[^:]+:[^:]+:(.+)$/.exec(identifier)?.[1];
}
