/**
 * Reads a stream of differences from chunks of any size. A record is handed out only after its checksums were found
 * right; `records` ends normally only after the end record and its digest, so a caller that gets there has seen
 * everything the writer sent. Memory is bounded by one record, whatever the stream says.
 */
import { damaged, DiffStreamError } from "./errors";
import {
  CRC_BYTES,
  decodeHeader,
  decodeRecordHeader,
  descriptionBytes,
  DIGEST_BYTES,
  type DiffHeader,
  HEADER_FIXED_BYTES,
  RECORD_HEADER_BYTES,
  RecordType,
} from "./format";

export interface DiffRecord {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Undefined: nothing is there any more. In memory of its own. */
  readonly bytes: Uint8Array | undefined;
}

/** Bytes from an iterable of chunks, in the amounts asked for. */
class ChunkReader {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #chunk: Uint8Array = new Uint8Array(0);
  #ended = false;

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  /** Exactly `count` bytes, in memory of their own. Throws "truncated-stream". */
  async take(count: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(count);
    let filled = 0;
    while (filled < count) {
      if (!(await this.#more()))
        throw new DiffStreamError(
          "truncated-stream",
          "Cannot import the stream: it ends too early; make it again",
        );
      const part = this.#chunk.subarray(0, count - filled);
      bytes.set(part, filled);
      filled += part.length;
      this.#chunk = this.#chunk.subarray(part.length);
    }
    return bytes;
  }

  async isAtEnd(): Promise<boolean> {
    return !(await this.#more());
  }

  async #more(): Promise<boolean> {
    while (this.#chunk.length === 0 && !this.#ended) {
      const next = await this.#chunks.next();
      if (next.done === true) this.#ended = true;
      else this.#chunk = next.value;
    }
    return this.#chunk.length > 0;
  }
}

export interface DiffStream {
  readonly header: DiffHeader;
  /** To be read once, to its end. Rejects with DiffStreamError. */
  records(): AsyncGenerator<DiffRecord, void, undefined>;
}

/** Reads the header. Rejects with DiffStreamError. */
export async function openDiffStream(chunks: AsyncIterable<Uint8Array>): Promise<DiffStream> {
  const reader = new ChunkReader(chunks);
  const digest = new Bun.CryptoHasher("sha256");
  const fixed = await reader.take(HEADER_FIXED_BYTES);
  const rest = await reader.take(descriptionBytes(fixed) + CRC_BYTES);
  const bytes = new Uint8Array(fixed.length + rest.length);
  bytes.set(fixed);
  bytes.set(rest, fixed.length);
  digest.update(bytes);
  const header = decodeHeader(bytes);
  return { header, records: () => readRecords(reader, digest, header.sizeBytes) };
}

async function* readRecords(
  reader: ChunkReader,
  digest: Bun.CryptoHasher,
  sizeBytes: number,
): AsyncGenerator<DiffRecord, void, undefined> {
  let endBytes = 0;
  let dataBytes = 0;
  for (let number = 1; ; number += 1) {
    const head = await reader.take(RECORD_HEADER_BYTES);
    digest.update(head);
    const { type, offsetBytes, lengthBytes, payloadCrc } = decodeRecordHeader(
      head,
      number,
      endBytes,
      sizeBytes,
    );
    if (type === RecordType.end) {
      if (lengthBytes !== dataBytes)
        throw damaged(`it holds ${dataBytes} bytes of data and its end says ${lengthBytes}`);
      const expected = await reader.take(DIGEST_BYTES);
      if (Buffer.compare(expected, digest.digest()) !== 0) throw damaged("its SHA-256 is wrong");
      if (!(await reader.isAtEnd())) throw damaged("it goes on after its end");
      return;
    }
    endBytes = offsetBytes + lengthBytes;
    if (type === RecordType.hole) {
      yield { offsetBytes, lengthBytes, bytes: undefined };
      continue;
    }
    const payload = await reader.take(lengthBytes);
    digest.update(payload);
    if (Bun.hash.crc32(payload) !== payloadCrc)
      throw damaged(`the checksum of the data in record ${number} is wrong`);
    dataBytes += lengthBytes;
    yield { offsetBytes, lengthBytes, bytes: payload };
  }
}
