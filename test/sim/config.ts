/** What distinguishes one simulated cluster from another. */
import type { VolumeOptions, WriteLevel } from "../../src/engine/volume";
import type { RingType } from "../../src/ring";

/** What is decided once for a run. */
export interface SimulationConfig {
  readonly peerCount: number;
  readonly replication: number;
  readonly ringType: RingType;
  readonly clientCount: number;
  readonly writeLevel: WriteLevel;
  readonly volumeOptions: Partial<VolumeOptions>;
  readonly leaseTtlMs: number;
  readonly storeBytes: number;
  readonly unitBytes: number;
  readonly syncMs: number;
}
