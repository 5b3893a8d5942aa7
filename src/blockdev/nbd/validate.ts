/**
 * Whether a transmission request may be tried at all, and the error that the protocol document names if not:
 * one pure function over plain numbers, run once for each request before anything is allocated for it. What
 * passes here is within the device, within the limits and free of flags that do not belong to the command.
 */
import type { ReplyStyle } from "./handshake";
import { Command, CommandFlag, NbdError, PAYLOAD_BYTES_MAX } from "./protocol";

export interface ExportState {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
}

/** Flags each command may carry besides FUA, which every command may. */
const FLAGS: Readonly<Record<number, number>> = {
  [Command.read]: CommandFlag.doNotFragment,
  [Command.write]: CommandFlag.payloadLength,
  [Command.disconnect]: 0,
  [Command.flush]: 0,
  [Command.trim]: 0,
  [Command.cache]: 0,
  [Command.writeZeroes]: CommandFlag.noHole | CommandFlag.fastZero,
  [Command.blockStatus]: CommandFlag.requestOne,
};

function flagsFit(command: number, flags: number, style: ReplyStyle): boolean {
  let allowed = CommandFlag.forceUnitAccess | (FLAGS[command] as number);
  if (style === "simple") allowed &= ~CommandFlag.doNotFragment;
  if (style !== "extended") allowed &= ~CommandFlag.payloadLength;
  // With extended headers a write says explicitly that its length is that of a payload.
  else if (command === Command.write && (flags & CommandFlag.payloadLength) === 0) return false;
  return (flags & ~allowed) === 0;
}

/** Offsets and lengths may have lost precision above 2^53: such values are beyond any device anyway. */
export function validateRequest(
  command: number,
  flags: number,
  offsetBytes: number,
  lengthBytes: number,
  device: ExportState,
  style: ReplyStyle,
  allocationContext: boolean,
): NbdError {
  if (FLAGS[command] === undefined || !flagsFit(command, flags, style)) return NbdError.invalid;
  const beyond = offsetBytes + lengthBytes > device.sizeBytes;
  switch (command) {
    case Command.read:
      return beyond || lengthBytes > PAYLOAD_BYTES_MAX ? NbdError.invalid : NbdError.none;
    case Command.write:
      if (device.readOnly) return NbdError.notPermitted;
      if (lengthBytes > PAYLOAD_BYTES_MAX) return NbdError.invalid;
      return beyond ? NbdError.noSpace : NbdError.none;
    case Command.writeZeroes:
      if (device.readOnly) return NbdError.notPermitted;
      return beyond ? NbdError.noSpace : NbdError.none;
    case Command.trim:
      if (device.readOnly) return NbdError.notPermitted;
      return beyond ? NbdError.invalid : NbdError.none;
    case Command.flush:
      return offsetBytes !== 0 || lengthBytes !== 0 ? NbdError.invalid : NbdError.none;
    case Command.blockStatus:
      return beyond || lengthBytes === 0 || !allocationContext ? NbdError.invalid : NbdError.none;
    case Command.cache:
      return beyond ? NbdError.invalid : NbdError.none;
    default:
      return NbdError.none;
  }
}
