/** What faults act on, and what all kinds of them share. */
import type { LogSet } from "../../../src/engine";
import type { MetaContext } from "../../../src/meta";
import type { SimClient } from "../actors/client";
import type { SimPeer } from "../actors/peer";
import type { SimSnapshots } from "../actors/snapshots";
import type { SimMetadata } from "../world/metadata";
import type { SimNetwork } from "../world/network";
import type { Prng } from "../world/prng";
import type { World } from "../world/world";

export interface Stage {
  readonly world: World;
  readonly network: SimNetwork;
  readonly metadata: SimMetadata;
  readonly peers: readonly SimPeer[];
  readonly clients: readonly SimClient[];
  readonly random: Prng;
  readonly context: MetaContext;
  readonly snapshots: SimSnapshots;
  readonly volumeName: string;
  readonly leaseTtlMs: number;
  /** Full size of the volume; it may be smaller at times. */
  readonly volumeBytes: number;
  /** The log sets of all heads as they are now. */
  logSets(): readonly LogSet[];
  /** A new machine with an empty disk; it is in no ring yet. */
  addPeer(): SimPeer;
  /** The machine is gone for good. */
  retirePeer(peer: SimPeer): void;
  /** Takes retired machines out of the ring and the directory; returns whether none is left in the ring. */
  forgetRetired(): Promise<boolean>;
}

export interface Kind {
  readonly name: string;
  /** It waits for a moment in which a disk can be spared. */
  readonly needsCalm?: true;
  /** Calls `struck` when, and only when, something did go wrong. */
  inject(struck: () => void): void;
}

export interface FaultTools {
  readonly stage: Stage;
  readonly random: Prng;
  /** In the safety phase only: a fault that was to end then has ended with it. */
  later(delayMs: number, callback: () => void): void;
  /** Nothing else goes wrong for so long, or what was begun would be drowned. */
  holdStill(durationMs: number): void;
  /** Mostly short, sometimes long enough for leases to run out. */
  durationMs(): number;
  log(text: string): void;
  /** Work of an administrator: whatever it throws ends the run. */
  administer(work: Promise<void>): void;
  /**
   * Strikes a peer whose disk may lose what it has, if there is such a moment within some seconds; the other faults
   * hold still meanwhile, and for as long as the strike takes: it returns whether it did.
   */
  strikeExpendable(
    wanted: (peer: SimPeer) => boolean,
    strike: (peer: SimPeer) => undefined | Promise<boolean>,
  ): void;
  /** Whether the disk of this peer could be lost at this moment. */
  canLose(peer: SimPeer): boolean;
  /**
   * Until what a running peer lost unseen is on another, and until its store was opened again if nobody knows
   * whether it opens whole.
   */
  settle(peer: SimPeer): Promise<void>;
  pause(durationMs: number): Promise<void>;
}
