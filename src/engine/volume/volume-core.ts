/** The parts an open volume is made of, put together by `openVolume` and used by the Volume. */
import type { AllocateBuffer, Clock, PeerId, TurnScheduler } from "../../base";
import type { BlockSealer } from "../block";
import type { Distributor, DistributorListener, PeerHealth } from "../distributor";
import type { PageMap } from "../inode";
import type { PeerTransport, VolumeRegistry, VolumeSession } from "../ports";
import type { BlockPool } from "./block-pool";
import type { BlockReader } from "./block-reader";
import type { BufferPool } from "./buffer-pool";
import type { Checkpointer } from "./checkpointer";
import type { ClusterFollower } from "./cluster-follower";
import type { InodeWriter } from "./inode-writer";
import type { VolumeOptions } from "./options";
import type { PageCache } from "./page-cache";
import type { ObserveLatency, VolumeStatistics } from "./statistics";

/** Something a person should know about; `text` is a sentence without a period. */
export interface VolumeEvent {
  readonly level: "info" | "warning" | "error";
  readonly text: string;
}

/** What a volume needs from outside; all but the session are shared by the volumes of a process. */
export interface VolumePorts {
  readonly clock: Clock;
  readonly turns: TurnScheduler;
  readonly transport: PeerTransport;
  readonly registry: VolumeRegistry;
  readonly allocate: AllocateBuffer;
  readonly blockPool: BlockPool;
  readonly bufferPool: BufferPool;
  /** Makes the page cache of one open of a volume; absent: nothing is cached. */
  readonly makeCache?: () => PageCache;
  /** The peer of this process or machine, if any. */
  readonly localPeerId?: PeerId;
  readonly observe?: ObserveLatency;
  readonly onEvent?: (event: VolumeEvent) => void;
}

export interface VolumeCore {
  readonly ports: VolumePorts;
  readonly options: VolumeOptions;
  readonly session: VolumeSession;
  readonly cluster: ClusterFollower;
  readonly health: PeerHealth;
  readonly reader: BlockReader;
  readonly map: PageMap;
  readonly sealer: BlockSealer;
  readonly distributor: Distributor;
  readonly inodes: InodeWriter;
  readonly checkpointer: Checkpointer;
  readonly statistics: VolumeStatistics;
  readonly cache: PageCache | undefined;
  /** What goes wrong in cleaning is told and tried again later. */
  readonly onCleanError: (error: unknown) => void;
}

/** The distributor is made before the volume that listens to it. */
export class LateListener implements DistributorListener {
  target: DistributorListener | undefined;
  /** The session's lock was lost. */
  lost: ((reason: string) => void) | undefined;

  onAcknowledged(index: number): void {
    this.target?.onAcknowledged(index);
  }

  onSpaceChange(full: boolean): void {
    this.target?.onSpaceChange(full);
  }

  onLowSpace(low: boolean): void {
    this.target?.onLowSpace(low);
  }

  onStuck(): void {
    this.target?.onStuck();
  }

  onFatal(error: Parameters<DistributorListener["onFatal"]>[0]): void {
    this.target?.onFatal(error);
  }
}
