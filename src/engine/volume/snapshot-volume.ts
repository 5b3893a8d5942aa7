/**
 * A snapshot as a read-only block device: a map opened from the snapshot's root and the same read path as a
 * volume's, without a log. Any number may be open at once, from anywhere; the session's pin keeps the snapshot, and
 * so its blocks, from being deleted, and reads are answered only while the pin's lease holds.
 */
import type { NativeBuffer } from "../../base";
import { PAGE_BYTES } from "../block";
import { PeerHealth } from "../distributor";
import { createPageMap, diffRoots, openPageMap, type PageDifference, type PageMap } from "../inode";
import { type SnapshotSession, StorageStatus } from "../ports";
import { BlockReader } from "./block-reader";
import { ClusterFollower } from "./cluster-follower";
import { ExtentScan, type VolumeExtent } from "./device-extents";
import { PeerNodeReader } from "./node-reader";
import { VOLUME_DEFAULTS, type VolumeOptions } from "./options";
import { ReadPath } from "./read-path";
import { Repairer } from "./repairer";
import { newVolumeStatistics, type VolumeStatistics } from "./statistics";
import { type VolumeDone, VolumeStatus } from "./volume-status";
import type { VolumePorts } from "./volume-core";

/** Takes the session over. Throws InodeError when the root cannot be read; the session is closed then. */
export async function openSnapshotVolume(
  ports: VolumePorts,
  session: SnapshotSession,
  options: Partial<VolumeOptions> = {},
): Promise<SnapshotVolume> {
  const parts = new SnapshotParts(ports, session, { ...VOLUME_DEFAULTS, ...options });
  try {
    return new SnapshotVolume(parts, await parts.openMap());
  } catch (error) {
    parts.stop();
    await session.close();
    throw error;
  }
}

class SnapshotParts {
  readonly statistics = newVolumeStatistics();
  readonly cluster: ClusterFollower;
  readonly health: PeerHealth;
  readonly reader: BlockReader;
  readonly repairer: Repairer;

  constructor(
    readonly ports: VolumePorts,
    readonly session: SnapshotSession,
    readonly options: VolumeOptions,
  ) {
    const { clock, transport, registry, bufferPool, localPeerId } = ports;
    this.cluster = new ClusterFollower(registry);
    this.health = new PeerHealth(clock, transport);
    this.reader = new BlockReader(
      {
        clusterId: this.cluster.view.clusterId,
        transport,
        health: this.health,
        view: this.cluster,
        statistics: this.statistics,
        hedging: ports,
      },
      { readLevel: options.readLevel, localPeerId },
    );
    this.repairer = new Repairer(this.reader, transport, bufferPool, this.statistics);
    this.reader.onBadCopy = (ref, peer) => this.repairer.enqueue(ref, peer);
  }

  openMap(): Promise<PageMap> {
    const { root } = this.session.snapshot;
    const options = {
      reader: new PeerNodeReader(this.reader, this.ports.allocate),
      residentBytesMax: this.options.mapBytesMax,
    };
    return root === null ? Promise.resolve(createPageMap(options)) : openPageMap(options, root);
  }

  stop(): void {
    this.repairer.stop();
    this.health.close();
    this.cluster.close();
  }
}

export class SnapshotVolume {
  readonly readOnly = true;
  readonly preferredBlockBytes = PAGE_BYTES;
  readonly sizeBytes: number;
  readonly statistics: VolumeStatistics;
  /** Called once when the snapshot can no longer be read. */
  onFailed: (reason: string) => void = () => {};
  readonly #parts: SnapshotParts;
  readonly #map: PageMap;
  readonly #reads: ReadPath;
  #open = true;

  constructor(parts: SnapshotParts, map: PageMap) {
    const { ports, session, statistics, reader, options } = parts;
    this.#parts = parts;
    this.#map = map;
    this.sizeBytes = session.snapshot.sizeBytes;
    this.statistics = statistics;
    this.#reads = new ReadPath(
      {
        clock: ports.clock,
        allocate: ports.allocate,
        map,
        log: undefined,
        reader,
        cache: ports.makeCache?.(),
        lease: session.lease,
        sizeBytes: () => this.sizeBytes,
        statistics,
        observe: ports.observe,
      },
      options,
    );
    session.onLost((reason) => {
      if (!this.#open) return;
      this.#stop();
      this.onFailed(reason);
    });
  }

  get name(): string {
    const { volume, snapshot } = this.#parts.session;
    return `${volume.name}@${snapshot.name}`;
  }

  get description(): string {
    return `torus snapshot ${this.name}`;
  }

  read(
    offsetBytes: number,
    lengthBytes: number,
    destination: NativeBuffer,
    destinationOffset: number,
    done: VolumeDone,
  ): void {
    if (!this.#open) return done(VolumeStatus.shutdown);
    if (!this.#fits(offsetBytes, lengthBytes)) return done(VolumeStatus.invalid);
    if (lengthBytes === 0) return done(VolumeStatus.ok);
    this.statistics.readRequests++;
    this.statistics.readBytes += lengthBytes;
    this.#reads.read(offsetBytes, lengthBytes, destination, destinationOffset, done);
  }

  write(
    _offsetBytes: number,
    _lengthBytes: number,
    _source: NativeBuffer,
    _sourceOffset: number,
    _forceUnitAccess: boolean,
    done: VolumeDone,
  ): void {
    done(VolumeStatus.readOnly);
  }

  flush(done: VolumeDone): void {
    done(this.#open ? VolumeStatus.ok : VolumeStatus.shutdown);
  }

  trim(_offsetBytes: number, _lengthBytes: number, _forceUnitAccess: boolean, done: VolumeDone): void {
    done(VolumeStatus.readOnly);
  }

  writeZeroes(_offsetBytes: number, _lengthBytes: number, _options: unknown, done: VolumeDone): void {
    done(VolumeStatus.readOnly);
  }

  extents(
    offsetBytes: number,
    lengthBytes: number,
    extentCountMax: number,
    done: (status: VolumeStatus, extents: readonly VolumeExtent[]) => void,
  ): void {
    if (!this.#open) return done(VolumeStatus.shutdown, []);
    if (!this.#fits(offsetBytes, lengthBytes)) return done(VolumeStatus.invalid, []);
    const { session, ports } = this.#parts;
    new ExtentScan(this.#map, undefined, offsetBytes, lengthBytes, extentCountMax, (status, extents) => {
      const expired = ports.clock.nowMs() >= session.lease.deadlineMs();
      if (status !== StorageStatus.ok || expired || !this.#open) done(VolumeStatus.ioError, []);
      else done(VolumeStatus.ok, extents);
    }).run();
  }

  /**
   * Pages that lie elsewhere than in `base`, in order, clipped to this snapshot's size; without a base, all that has
   * data. Rejects with InodeError; both snapshots must stay open meanwhile.
   */
  async *differences(base: SnapshotVolume | undefined): AsyncGenerator<PageDifference, void, undefined> {
    const { session, ports, reader } = this.#parts;
    const nodes = new PeerNodeReader(reader, ports.allocate);
    const endPage = Math.ceil(this.sizeBytes / PAGE_BYTES);
    const root = base === undefined ? null : base.#parts.session.snapshot.root;
    for await (const difference of diffRoots(session.snapshot.root, root, nodes)) {
      const { firstPage, pageCount } = difference;
      if (firstPage >= endPage) return;
      yield { ...difference, pageCount: Math.min(pageCount, endPage - firstPage) };
    }
  }

  /** A snapshot never changes. */
  onResize(): () => void {
    return () => {};
  }

  async close(): Promise<void> {
    this.#stop();
    await this.#parts.session.close();
  }

  #fits(offsetBytes: number, lengthBytes: number): boolean {
    return offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= this.sizeBytes;
  }

  #stop(): void {
    this.#open = false;
    this.#reads.stop();
    this.#parts.stop();
  }
}
