/**
 * Rewrites copies that failed their check from a good one, in the background and one at a time. The copy is
 * unfenced and counts for nothing (R1); what the queue cannot take is found again by the next read or by scrub.
 */
import { type BlockRef, formatBlockRef, type NativeBuffer, type PeerId } from "../../base";
import { type PeerTransport, StorageStatus, isStored } from "../ports";
import type { BlockReader } from "./block-reader";
import type { BufferPool } from "./buffer-pool";
import type { VolumeStatistics } from "./statistics";

const QUEUE_MAX = 64;

export class Repairer {
  readonly #reader: BlockReader;
  readonly #transport: PeerTransport;
  readonly #pool: BufferPool;
  readonly #statistics: VolumeStatistics;
  readonly #queue = new Map<string, { ref: BlockRef; peer: PeerId }>();
  #running = false;
  #stopped = false;

  constructor(reader: BlockReader, transport: PeerTransport, pool: BufferPool, statistics: VolumeStatistics) {
    this.#reader = reader;
    this.#transport = transport;
    this.#pool = pool;
    this.#statistics = statistics;
  }

  enqueue(ref: BlockRef, peer: PeerId): void {
    if (this.#stopped || this.#queue.size >= QUEUE_MAX) return;
    this.#queue.set(`${peer} ${formatBlockRef(ref)}`, { ref, peer });
    if (!this.#running) void this.#run();
  }

  stop(): void {
    this.#stopped = true;
    this.#queue.clear();
  }

  async #run(): Promise<void> {
    this.#running = true;
    for (const [key, { ref, peer }] of this.#queue) {
      const buffer = await this.#pool.acquire();
      try {
        if (!this.#stopped) await this.#repair(ref, peer, buffer);
      } finally {
        this.#pool.release(buffer);
      }
      this.#queue.delete(key);
      if (this.#stopped) break;
    }
    this.#running = false;
  }

  async #repair(ref: BlockRef, peer: PeerId, buffer: NativeBuffer): Promise<void> {
    const found = await this.#reader.readBlock(ref, buffer);
    if (found.status !== StorageStatus.ok || this.#stopped) return;
    const status = await new Promise<StorageStatus>((resolve) =>
      this.#transport.put(peer, {
        buffer,
        offset: found.offset,
        lengthBytes: found.lengthBytes,
        writerEpoch: 0,
        done: (_peer, _incarnation, answer) => resolve(answer),
      }),
    );
    if (isStored(status)) this.#statistics.repairedCopies++;
  }
}
