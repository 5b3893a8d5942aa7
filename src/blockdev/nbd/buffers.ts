/**
 * Memory for request data, under one limit for the whole server. Slabs of 1 MiB are carved into pieces of one of
 * four sizes; a slab whose pieces are all back may be carved anew for another size, so no mix of requests can pin
 * the memory in the wrong shape. A larger request takes several pieces.
 *
 * Each piece keeps HEADROOM_BYTES before its data: a reply's header is put directly before the data it announces,
 * so both leave in one send. A piece carries its own callbacks, made once, so that a request allocates nothing.
 *
 * Who finds no memory waits in a queue and is served in order; meanwhile nobody overtakes.
 */
import { type AllocateBuffer, assert, type NativeBuffer } from "../../base";
import type { DeviceStatus } from "../device";

export const HEADROOM_BYTES = 64;
/** The largest piece: requests above this are handled in pieces of this size. */
export const PIECE_BYTES_MAX = 1024 * 1024;
const CAPACITIES = [4096, 32 * 1024, 256 * 1024, PIECE_BYTES_MAX] as const;
const SLAB_BYTES = PIECE_BYTES_MAX + 4096;

/** What a piece reports to: whoever is charged for its memory. */
export interface PieceOwner<Context> {
  pieceDone(piece: Piece<Context>, status: DeviceStatus): void;
  pieceReleased(piece: Piece<Context>): void;
}

/** `Context` is what the owner wants to find again when the device answers: its request. */
export class Piece<Context> {
  /** Position of the data in the buffer; HEADROOM_BYTES before it are the piece's too. */
  readonly offset: number;
  owner: PieceOwner<Context> | undefined;
  context: Context | undefined;
  /** Set by the owner: which bytes of the device these are. */
  deviceOffset = 0;
  lengthBytes = 0;
  /** To be handed to the device. */
  readonly done: (status: DeviceStatus) => void;
  /** To be handed to the connection as `sent`, or called when the data is of no use any more. */
  readonly release: () => void;

  constructor(
    pool: BufferPool<Context>,
    readonly slab: Slab<Context>,
    readonly buffer: NativeBuffer,
    index: number,
    readonly capacityBytes: number,
  ) {
    this.offset = index * (capacityBytes + HEADROOM_BYTES) + HEADROOM_BYTES;
    this.done = (status) => {
      assert(this.owner !== undefined, "A device answered for a request that is over");
      this.owner.pieceDone(this, status);
    };
    this.release = () => {
      const owner = this.owner;
      assert(owner !== undefined, "A piece of request memory was released twice");
      this.owner = undefined;
      this.context = undefined;
      pool.give(this);
      owner.pieceReleased(this);
    };
  }
}

/** One allocation, and how it is carved at the moment. */
class Slab<Context> {
  classIndex = -1;
  freeCount = 0;
  pieces: readonly Piece<Context>[] = [];
  constructor(readonly buffer: NativeBuffer) {}
}

export class BufferPool<Context> {
  readonly #free: Piece<Context>[][] = CAPACITIES.map(() => []);
  readonly #slabs: Slab<Context>[] = [];
  readonly #slabCountMax: number;
  readonly #waiting: (() => boolean)[] = [];
  #serving = false;

  constructor(
    private readonly allocate: AllocateBuffer,
    bytesMax: number,
  ) {
    this.#slabCountMax = Math.floor(bytesMax / PIECE_BYTES_MAX);
  }

  /** Memory taken from the system so far. */
  get allocatedBytes(): number {
    return this.#slabs.length * SLAB_BYTES;
  }

  get waitingCount(): number {
    return this.#waiting.length;
  }

  /** Pieces handed out and not yet back; 0 when no request is in flight. */
  get takenCount(): number {
    let count = 0;
    for (const slab of this.#slabs) count += slab.pieces.length - slab.freeCount;
    return count;
  }

  /** A piece for `lengthBytes` (at most PIECE_BYTES_MAX), or undefined: then `wait`. */
  take(lengthBytes: number, owner: PieceOwner<Context>): Piece<Context> | undefined {
    if (lengthBytes > PIECE_BYTES_MAX) assert(false, `A piece of ${lengthBytes} bytes was asked for`);
    if (this.#waiting.length > 0 && !this.#serving) return undefined;
    const classIndex = classOf(lengthBytes);
    const list = this.#free[classIndex] as Piece<Context>[];
    const piece = list.pop() ?? (this.#carve(classIndex) ? list.pop() : undefined);
    if (piece === undefined) return undefined;
    piece.slab.freeCount--;
    piece.owner = owner;
    piece.lengthBytes = lengthBytes;
    return piece;
  }

  /** Pieces that cover `lengthBytes`, appended to `into`: all of them or none. */
  takeAll(lengthBytes: number, owner: PieceOwner<Context>, into: Piece<Context>[]): boolean {
    const before = into.length;
    for (let position = 0; position < lengthBytes; position += PIECE_BYTES_MAX) {
      const piece = this.take(Math.min(PIECE_BYTES_MAX, lengthBytes - position), owner);
      if (piece === undefined) {
        while (into.length > before) {
          const taken = into.pop() as Piece<Context>;
          taken.owner = undefined;
          this.#putBack(taken);
        }
        return false;
      }
      into.push(piece);
    }
    return true;
  }

  /** `retry` runs when memory came back, until it returns true (it took what it needed, or needs nothing any more). */
  wait(retry: () => boolean): void {
    this.#waiting.push(retry);
  }

  give(piece: Piece<Context>): void {
    this.#putBack(piece);
    if (this.#waiting.length > 0 && !this.#serving) this.#serve();
  }

  #putBack(piece: Piece<Context>): void {
    piece.slab.freeCount++;
    (this.#free[piece.slab.classIndex] as Piece<Context>[]).push(piece);
  }

  #serve(): void {
    this.#serving = true;
    try {
      while (this.#waiting.length > 0 && (this.#waiting[0] as () => boolean)()) this.#waiting.shift();
    } finally {
      this.#serving = false;
    }
  }

  #carve(classIndex: number): boolean {
    let slab: Slab<Context> | undefined;
    if (this.#slabs.length < this.#slabCountMax) {
      slab = new Slab<Context>(this.allocate(SLAB_BYTES));
      this.#slabs.push(slab);
    } else {
      slab = this.#slabs.find((each) => each.freeCount === each.pieces.length);
      if (slab === undefined) return false;
      const old = slab;
      this.#free[old.classIndex] = (this.#free[old.classIndex] as Piece<Context>[]).filter(
        (piece) => piece.slab !== old,
      );
    }
    const capacity = CAPACITIES[classIndex] as number;
    const count = Math.floor(SLAB_BYTES / (capacity + HEADROOM_BYTES));
    const { buffer } = slab;
    const carved = slab;
    slab.classIndex = classIndex;
    slab.pieces = Array.from(
      { length: count },
      (_, index) => new Piece(this, carved, buffer, index, capacity),
    );
    slab.freeCount = count;
    (this.#free[classIndex] as Piece<Context>[]).push(...slab.pieces);
    return true;
  }
}

function classOf(lengthBytes: number): number {
  let index = 0;
  while ((CAPACITIES[index] as number) < lengthBytes) index++;
  return index;
}
