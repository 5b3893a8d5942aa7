/** Why a volume cannot be opened or goes on no longer. */
import { TorusError } from "../../base";

export type VolumeErrorCode =
  /** The ring has no live member: there is nowhere to write. */
  | "no-peers"
  /** Too few peers of the log set answered to be sure that nothing acknowledged is missed (R3b). */
  | "tail-unreachable"
  /** A block of the tail can be neither found nor ruled out (R3d). */
  | "tail-uncertain"
  /** A peer knows an epoch that is newer than the one just minted, or that was never minted: R3c. */
  | "metadata-rolled-back"
  /** The volume's access list does not name this process's certificate. */
  | "denied"
  /** A block's name stands for two contents. */
  | "conflict"
  /** The map or a block it needs cannot be read. */
  | "unreadable"
  /** No peer has a part of the map, and all answered. */
  | "map-missing"
  /** The metadata refused: another writer opened, or the snapshot is gone. */
  | "refused"
  /** A step did not end within its deadline. */
  | "deadline"
  /** The volume failed earlier, or is closed. */
  | "closed"
  | "bad-size";

export class VolumeError extends TorusError<VolumeErrorCode> {}
