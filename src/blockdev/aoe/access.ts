/**
 * Who may use a target: the MAC mask list (when it holds any, frames of others are as if they never came) and the
 * reservation (when there is one, others are told "reserved"). Both are edited over the wire, as the protocol has it,
 * and last as long as the process.
 */
import type { NativeBuffer } from "../../base";
import {
  MAC_BYTES,
  type MacAddress,
  MASK_DIRECTIVE_BYTES,
  MaskDirective,
  MaskError,
  Offset,
  readMac,
  writeMac,
} from "./protocol";

/** Both lists are counted in a byte. */
const ADDRESSES_MAX = 255;

export class TargetAccess {
  readonly #masks: Set<MacAddress>;
  #holders = new Set<MacAddress>();

  constructor(allowed: readonly MacAddress[]) {
    this.#masks = new Set(allowed);
  }

  isHeard(client: MacAddress): boolean {
    return this.#masks.size === 0 || this.#masks.has(client);
  }

  isReservedFor(client: MacAddress): boolean {
    return this.#holders.size === 0 || this.#holders.has(client);
  }

  /** Applies the frame's directives, all or none; returns the MError of the answer. */
  editMasks(frame: NativeBuffer, lengthBytes: number): number {
    const count = frame.view.getUint8(Offset.maskCount);
    if (Offset.maskDirectives + count * MASK_DIRECTIVE_BYTES > lengthBytes) return MaskError.unspecified;
    const next = new Set(this.#masks);
    for (let index = 0; index < count; index++) {
      const offset = Offset.maskDirectives + index * MASK_DIRECTIVE_BYTES;
      const directive = frame.view.getUint8(offset + 1);
      const address = readMac(frame, offset + 2);
      if (directive === MaskDirective.add) next.add(address);
      else if (directive === MaskDirective.delete) next.delete(address);
      else if (directive !== MaskDirective.none) return MaskError.badDirective;
    }
    if (next.size > ADDRESSES_MAX) return MaskError.full;
    this.#masks.clear();
    for (const address of next) this.#masks.add(address);
    return MaskError.none;
  }

  /** Writes the list as "add" directives, as many as fit; returns the answer's length. */
  writeMasks(frame: NativeBuffer, frameBytesMax: number): number {
    let offset: number = Offset.maskDirectives;
    let count = 0;
    for (const address of this.#masks) {
      if (offset + MASK_DIRECTIVE_BYTES > frameBytesMax) break;
      frame.view.setUint8(offset, 0);
      frame.view.setUint8(offset + 1, MaskDirective.add);
      writeMac(frame, offset + 2, address);
      offset += MASK_DIRECTIVE_BYTES;
      count++;
    }
    frame.view.setUint8(Offset.maskCount, count);
    return offset;
  }

  /** Reserves for the frame's addresses; none releases. Undefined: the frame is too short for them. */
  reserve(frame: NativeBuffer, lengthBytes: number): true | undefined {
    const count = frame.view.getUint8(Offset.reserveCount);
    if (Offset.reserveAddresses + count * MAC_BYTES > lengthBytes) return undefined;
    const next = new Set<MacAddress>();
    for (let index = 0; index < count; index++)
      next.add(readMac(frame, Offset.reserveAddresses + index * MAC_BYTES));
    this.#holders = next;
    return true;
  }

  writeHolders(frame: NativeBuffer, frameBytesMax: number): number {
    let offset: number = Offset.reserveAddresses;
    let count = 0;
    for (const address of this.#holders) {
      if (offset + MAC_BYTES > frameBytesMax) break;
      writeMac(frame, offset, address);
      offset += MAC_BYTES;
      count++;
    }
    frame.view.setUint8(Offset.reserveCount, count);
    return offset;
  }
}
