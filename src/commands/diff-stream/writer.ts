/** Makes a stream of differences, piece by piece; whoever calls sends each piece before asking for the next. */
import { assert } from "../../base";
import {
  type DiffHeader,
  encodeHeader,
  encodeRecordHeader,
  RECORD_DATA_BYTES_MAX,
  type RecordHeader,
  RecordType,
} from "./format";

export class DiffStreamWriter {
  readonly #send: (bytes: Uint8Array) => Promise<void> | void;
  readonly #digest = new Bun.CryptoHasher("sha256");
  #number = 1;
  #dataBytes = 0;

  constructor(send: (bytes: Uint8Array) => Promise<void> | void) {
    this.#send = send;
  }

  get dataBytes(): number {
    return this.#dataBytes;
  }

  async begin(header: DiffHeader): Promise<void> {
    await this.#put(encodeHeader(header));
  }

  /** At most RECORD_DATA_BYTES_MAX bytes; offsets ascend. */
  async data(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    assert(bytes.length >= 1 && bytes.length <= RECORD_DATA_BYTES_MAX, "a record of data is 1 B to 1 MiB");
    this.#dataBytes += bytes.length;
    await this.#record({
      type: RecordType.data,
      offsetBytes,
      lengthBytes: bytes.length,
      payloadCrc: Bun.hash.crc32(bytes),
    });
    await this.#put(bytes);
  }

  async hole(offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.#record({ type: RecordType.hole, offsetBytes, lengthBytes, payloadCrc: 0 });
  }

  async end(): Promise<void> {
    await this.#record({
      type: RecordType.end,
      offsetBytes: 0,
      lengthBytes: this.#dataBytes,
      payloadCrc: 0,
    });
    await this.#send(new Uint8Array(this.#digest.digest()));
  }

  async #record(header: RecordHeader): Promise<void> {
    await this.#put(encodeRecordHeader(header, this.#number));
    this.#number += 1;
  }

  async #put(bytes: Uint8Array): Promise<void> {
    this.#digest.update(bytes);
    await this.#send(bytes);
  }
}
