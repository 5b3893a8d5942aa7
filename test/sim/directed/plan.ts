/** A directed schedule: what happens is written down, and only its timing and the run's other draws are chance. */
import type { VolumeOptions } from "../../../src/engine/volume";
import type { SimulationConfig } from "../config";
import type { Scene } from "./scene";

export interface Plan {
  readonly name: string;
  /** What it needs of the run; the rest is the same for all plans, or drawn. */
  readonly config?: Partial<Omit<SimulationConfig, "volumeOptions">>;
  readonly volumeOptions?: Partial<VolumeOptions>;
  run(scene: Scene): Promise<void>;
}

/** Two peers with two copies, two clients, and a writer that checkpoints and changes its set only when it must. */
export function configFor(plan: Plan, drawn: SimulationConfig): SimulationConfig {
  return {
    ...drawn,
    ...{ peerCount: 2, replication: 2, clientCount: 2, writeLevel: "all", ringType: "table" },
    ...{ leaseTtlMs: 3_000, storeBytes: 64 * 1024 * 1024, syncMs: 0.3 },
    ...plan.config,
    volumeOptions: {
      ...drawn.volumeOptions,
      ...{ writeLevel: plan.config?.writeLevel ?? "all", readLevel: "block", writeBackMs: 1_000 },
      ...{ checkpointIntervalMs: 600_000, checkpointLogBytes: 64 * 1024 * 1024, followAfterMs: 60_000 },
      ...{ cleanDeadBytesMin: 64 * 1024 * 1024 },
      ...plan.volumeOptions,
    },
  };
}
