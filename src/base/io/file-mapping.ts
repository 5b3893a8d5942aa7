/**
 * A file seen as memory, read-only and shared with everybody who writes it. The mapping goes when its buffer is
 * collected, never earlier, so that a reader that still holds it can do no harm.
 */
import type { NativeBuffer } from "../buffer";
import { C, libc, must } from "./libc";
import { bufferAt } from "./memory";

const unmapper = new FinalizationRegistry<{ address: number; lengthBytes: number }>((mapping) => {
  libc.munmap(mapping.address, mapping.lengthBytes);
});

/** `lengthBytes` is a multiple of 4 and within the file: touching a page beyond its end kills the process. */
export function mapFile(fd: number, name: string, lengthBytes: number): NativeBuffer {
  const address = must(`map ${name}`, libc.mmap(lengthBytes, C.PROT_READ, C.MAP_SHARED, fd, 0));
  const buffer = bufferAt(address, lengthBytes);
  unmapper.register(buffer.bytes.buffer, { address, lengthBytes });
  return buffer;
}
