/**
 * The head of a volume: the one metadata record that says where its map is, which log positions the map covers
 * and on which disks the log's tail lives. Only a checkpoint transaction changes it. The engine owns the shape
 * and its rules; src/meta stores it as JSON under a revision.
 */
import type { Epoch, Incarnation, PeerId, VolumeId } from "../base";

/** Where a node of the INode tree lives: bytes [offset, offset+length) of the payload of one INode block. */
export interface NodePointer {
  readonly volumeId: VolumeId;
  readonly epoch: Epoch;
  /** INode block index within the epoch. */
  readonly index: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** One disk in one life: only this pair counts for acknowledgements, fences and denials. */
export interface LogMember {
  readonly peerId: PeerId;
  readonly incarnation: Incarnation;
}

/** Where the log's tail lives: S and W of DESIGN's rules. */
export interface LogSet {
  /** The ring version whose permutation, restricted to `members`, places the tail's blocks. */
  readonly ringVersion: number;
  /** S. Empty after a clean detach: then there is no tail. */
  readonly members: readonly LogMember[];
  /** W: how many distinct members hold every acknowledged block of the tail. 0 when S is empty. */
  readonly width: number;
}

export interface Head {
  /** Root of the INode tree, or null while nothing was ever checkpointed. */
  readonly root: NodePointer | null;
  /** Epoch of the writer that put this head; its log is the tail. 0 before the first open. */
  readonly epoch: number;
  /** The map covers data blocks 1..dataIndex of `epoch`; the tail starts at dataIndex+1. */
  readonly dataIndex: number;
  /** INode blocks 1..inodeIndex of `epoch` are decided: referenced or dead, none of them young. */
  readonly inodeIndex: number;
  readonly sizeBytes: number;
  readonly log: LogSet;
}
