/**
 * Invariant 5: a BlockRef never names two different contents. Every block that leaves any process is noted by the
 * CRC of its header, which covers the CRCs of all its slots.
 */
import { formatBlockRef } from "../../../src/base";
import { BlockFault, type BlockHeader } from "../../../src/engine/block";
import type { OutgoingPut } from "../../../src/engine/ports";
import { Violation } from "../world/world";

export class ContentRegistry {
  private readonly contents = new Map<string, number>();

  constructor(private readonly header: BlockHeader) {}

  check(put: OutgoingPut): void {
    const fault = this.header.parse(put.buffer, put.offset, put.lengthBytes);
    if (fault !== BlockFault.none)
      throw new Violation("content", `a block with fault ${fault} is sent by the process that made it`);
    const name = formatBlockRef(this.header.ref);
    const known = this.contents.get(name);
    if (known !== undefined && known !== this.header.headerCrc)
      throw new Violation("content", `${name} is sent with two different contents`);
    this.contents.set(name, this.header.headerCrc);
  }
}
