/**
 * Volumes and snapshots opened for reading by a command. A volume is read through a snapshot of its own, bound to a
 * lease, so that what is read is one moment's state and the volume may be attached meanwhile.
 */
import { systemClock, systemRandom } from "../../base/io";
import { CommandError } from "../cli";
import type { Client } from "../client";
import { type CommandDevice, parseExportName, PIECE_BYTES_MAX } from "../data-plane";
import { makeSnapshot } from "./snapshot-making";

const PIECES_AHEAD = 8;
const EXTENTS_AT_ONCE = 256;
const SCAN_BYTES = 64 * 2 ** 30;
const LEASE_TTL_MS = 60_000;
const LEASE_RENEW_MS = 15_000;

/** A run of data (or of nothing) in a device. */
interface Run {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly hole: boolean;
}

/** The device's runs from start to end, none longer than a piece unless it is a hole. */
export async function* runsOf(device: CommandDevice): AsyncGenerator<Run> {
  let offsetBytes = 0;
  while (offsetBytes < device.sizeBytes) {
    const scan = Math.min(SCAN_BYTES, device.sizeBytes - offsetBytes);
    for (const extent of await device.extents(offsetBytes, scan, EXTENTS_AT_ONCE)) {
      let left = extent.lengthBytes;
      while (left > 0) {
        const lengthBytes = extent.hole ? left : Math.min(left, PIECE_BYTES_MAX);
        yield { offsetBytes, lengthBytes, hole: extent.hole };
        offsetBytes += lengthBytes;
        left -= lengthBytes;
      }
    }
  }
}

/** Reads the device's data, several pieces ahead, and hands out the runs in order; a hole comes without bytes. */
export async function* readRuns(
  device: CommandDevice,
): AsyncGenerator<Run & { readonly bytes: Uint8Array | undefined }> {
  const ahead: { readonly run: Run; readonly bytes: Promise<Uint8Array> | undefined }[] = [];
  const next = async () => {
    const first = ahead.shift() as (typeof ahead)[0];
    return { ...first.run, bytes: await first.bytes };
  };
  for await (const run of runsOf(device)) {
    const bytes = run.hole ? undefined : device.read(run.offsetBytes, run.lengthBytes);
    // Its failure is met when its turn comes.
    bytes?.catch(() => undefined);
    ahead.push({ run, bytes });
    if (ahead.length > PIECES_AHEAD) yield await next();
  }
  while (ahead.length > 0) yield await next();
}

/** Opens `VOLUME@SNAPSHOT`, or a temporary snapshot of `VOLUME` as it is now, for reading; `work` is handed it. */
export async function withReadable<T>(
  client: Client,
  name: string,
  work: (device: CommandDevice) => Promise<T>,
): Promise<T> {
  const { volume, snapshot } = parseExportName(name);
  if (snapshot !== undefined) return withSnapshot(client, volume, snapshot, work);
  return withTemporarySnapshot(client, volume, (temporary) => withSnapshot(client, volume, temporary, work));
}

/** Runs `work` while there is a snapshot of the volume as it is now; it goes with its lease, whatever happens. */
export async function withTemporarySnapshot<T>(
  client: Client,
  volume: string,
  work: (snapshot: string) => Promise<T>,
): Promise<T> {
  const { store } = client.metadata.context;
  const lease = await store.grantLease(LEASE_TTL_MS);
  let lost: unknown;
  let timer = systemClock.schedule(LEASE_RENEW_MS, renew);
  function renew() {
    store.keepLeaseAlive(lease).then(
      () => {
        timer = systemClock.schedule(LEASE_RENEW_MS, renew);
      },
      (error: unknown) => {
        lost = error;
      },
    );
  }
  const temporary = `temporary-${systemRandom.hex(6)}`;
  try {
    await makeSnapshot(async () => client, client.metadata, volume, temporary, lease);
    const result = await work(temporary);
    if (lost !== undefined)
      throw new CommandError(
        "io",
        `Cannot vouch for what was read of volume "${volume}": the snapshot behind it was lost`,
        lost,
      );
    return result;
  } finally {
    timer.cancel();
    await store.revokeLease(lease);
  }
}

/** Opens a snapshot for the time of `work`. */
export async function withSnapshot<T>(
  client: Client,
  volume: string,
  snapshot: string,
  work: (device: CommandDevice) => Promise<T>,
): Promise<T> {
  const device = await client.plane.openDevice({ volume, snapshot });
  try {
    return await work(device);
  } finally {
    await device.close();
  }
}
