/**
 * A piece of memory seen as bytes, as 32-bit words and through a DataView. Production buffers are anonymous
 * mappings that a system call can take by address; the simulator's are plain arrays whose address is 0. Code in
 * ring and engine uses only the views and hands the buffer on; only the I/O part of base looks at the address.
 */
export interface NativeBuffer {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** bytes.length is a multiple of 4, so the whole buffer can be seen as words. */
  readonly words: Int32Array;
  /** Address of bytes[0] in this process, or 0 when the memory is managed by the runtime. */
  readonly address: number;
}

/** Hands out buffers; production maps them anonymously, the simulator and tests use `heapBuffer`. */
export type AllocateBuffer = (lengthBytes: number) => NativeBuffer;

export const heapBuffer: AllocateBuffer = (lengthBytes) => {
  const array = new ArrayBuffer((lengthBytes + 3) & ~3);
  return {
    bytes: new Uint8Array(array),
    view: new DataView(array),
    words: new Int32Array(array),
    address: 0,
  };
};
