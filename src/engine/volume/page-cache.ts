/**
 * What the read path asks of a page cache: pages by their immutable location. One is made for each open of a
 * volume, because a location means something only within one open (a restore may use log sequence numbers again).
 */
import type { NativeBuffer } from "../../base";

export interface PageCache {
  /** Copies the page to destination.bytes[offset ..] when it is there. */
  read(location: number, destination: NativeBuffer, offset: number): boolean;
  /** Keeps a copy of the page at source.bytes[offset ..]. */
  insert(location: number, source: NativeBuffer, offset: number): void;
  has(location: number): boolean;
}
