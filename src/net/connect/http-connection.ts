/**
 * The client's end of one HTTP/1.1 connection on a byte stream: one POST at a time, keep-alive, answers with a
 * Content-Length. It is all that Connect's unary calls need, runs on the raw event loop (where the runtime's fetch
 * would stand still while the loop waits), sends block bytes from where they lie and receives answers into one buffer.
 *
 *   idle --post()--> head --end of the head--> body --all of it--> idle ... --any fault, close--> closed
 *
 * Invariants: a call's `answered` or `failed` runs once, never inside `post`, unless the connection is destroyed
 * by its owner, who then knows; nothing of a request's memory is touched after either ran.
 */
import { type AllocateBuffer, assert, type NativeBuffer } from "../../base";
import type { StreamConnection, StreamHandler } from "../../base/io";

const HEAD_BYTES_MAX = 16 * 1024;
/** A larger buffer is dropped after its answer: a listing should not stay in memory for good. */
const KEPT_BUFFER_BYTES_MAX = 8 * 1024 * 1024;
const FIRST_BUFFER_BYTES = 64 * 1024;

export interface HttpCall {
  readonly path: string;
  readonly bodyBytes: number;
  readonly replyBytesMax: number;
  readonly timeoutMs: number;
  /** Writes exactly `bodyBytes`; called once, inside `post`. */
  writeBody(connection: StreamConnection): void;
  /** `body` is valid during the call. The connection is idle already and may be used again. */
  answered(status: number, contentType: string, body: Uint8Array): void;
  /** `unheard`: the connection had been used before and closed without a byte of an answer, so the call may be made again. */
  failed(reason: string, unheard: boolean): void;
}

export class HttpConnection implements StreamHandler {
  #state: "idle" | "head" | "body" | "closed" = "idle";
  #call: HttpCall | undefined;
  #answerCount = 0;
  #heard = false;
  #status = 0;
  #contentType = "";
  #keepAlive = true;
  #bodyBytes = 0;
  #buffer: NativeBuffer | undefined;

  constructor(
    private readonly connection: StreamConnection,
    private readonly allocate: AllocateBuffer,
    private readonly host: string,
    private readonly closed: (connection: HttpConnection, reason: string) => void,
  ) {}

  get isIdle(): boolean {
    return this.#state === "idle";
  }

  get call(): HttpCall | undefined {
    return this.#call;
  }

  post(call: HttpCall): void {
    assert(this.#state === "idle", "an HTTP connection has one call at a time");
    this.#state = "head";
    this.#call = call;
    this.#heard = false;
    const head =
      `POST ${call.path} HTTP/1.1\r\nHost: ${this.host}\r\nContent-Type: application/proto\r\n` +
      `Connect-Protocol-Version: 1\r\nConnect-Timeout-Ms: ${Math.ceil(call.timeoutMs)}\r\n` +
      `Content-Length: ${call.bodyBytes}\r\n\r\n`;
    const bytes = Buffer.from(head, "latin1");
    this.connection.write(bytes, 0, bytes.length);
    call.writeBody(this.connection);
  }

  destroy(reason: string): void {
    this.connection.destroy(reason);
  }

  onData(buffer: NativeBuffer, start: number, end: number): number {
    if (this.#state === "closed") return end - start;
    if (this.#state !== "head") return this.#violation("bytes that nobody asked for", end - start);
    this.#heard = true;
    const headEnd = endOfHead(buffer.bytes, start, end);
    if (headEnd < 0)
      return end - start > HEAD_BYTES_MAX ? this.#violation("an endless head", end - start) : 0;
    const problem = this.#parseHead(Buffer.from(buffer.bytes.subarray(start, headEnd)).toString("latin1"));
    if (problem !== undefined) return this.#violation(problem, end - start);
    const consumed = headEnd - start;
    // 100 Continue announces the real answer, which may be there already.
    if (this.#status < 200) return headEnd === end ? consumed : consumed + this.onData(buffer, headEnd, end);
    if (this.#bodyBytes === 0) this.#answer(new Uint8Array(0));
    else {
      this.#state = "body";
      this.connection.receiveInto(this.#room(this.#bodyBytes), 0, this.#bodyBytes);
    }
    return consumed;
  }

  onReceived(): void {
    this.#answer((this.#buffer as NativeBuffer).bytes.subarray(0, this.#bodyBytes));
  }

  onClose(reason: string | undefined): void {
    if (this.#state === "closed") return;
    this.#state = "closed";
    const call = this.#call;
    this.#call = undefined;
    const text = reason ?? "the other side closed the connection";
    this.closed(this, text);
    call?.failed(text, !this.#heard && this.#answerCount > 0);
  }

  #answer(body: Uint8Array): void {
    const call = this.#call as HttpCall;
    this.#call = undefined;
    this.#state = "idle";
    this.#answerCount++;
    const { connection } = this;
    if (!this.#keepAlive) {
      this.#state = "closed";
      this.closed(this, "the other side closes after each answer");
    }
    call.answered(this.#status, this.#contentType, body);
    if (!this.#keepAlive) connection.destroy("the other side closes after each answer");
    else if (this.#buffer !== undefined && this.#buffer.bytes.length > KEPT_BUFFER_BYTES_MAX)
      this.#buffer = undefined;
  }

  /** What is wrong with it, or undefined. */
  #parseHead(head: string): string | undefined {
    const [statusLine = "", ...lines] = head.split("\r\n");
    const match = /^HTTP\/1\.([01]) (\d{3})/.exec(statusLine);
    if (match === null) return "no HTTP/1.1 answer";
    this.#status = Number(match[2]);
    this.#keepAlive = match[1] === "1";
    this.#contentType = "";
    let lengthText: string | undefined;
    for (const line of lines) {
      const colon = line.indexOf(":");
      const value = line.slice(colon + 1).trim();
      switch (line.slice(0, colon).toLowerCase()) {
        case "content-length":
          if (lengthText !== undefined && lengthText !== value) return "two content lengths";
          lengthText = value;
          break;
        case "content-type":
          this.#contentType = value;
          break;
        case "connection":
          if (value.toLowerCase() === "close") this.#keepAlive = false;
          break;
        case "transfer-encoding":
        case "content-encoding":
          if (value !== "identity") return `an answer in ${value} encoding`;
      }
    }
    if (this.#status < 200) return undefined;
    if (lengthText === undefined || !/^\d{1,12}$/.test(lengthText))
      return "an answer without a content length";
    this.#bodyBytes = Number(lengthText);
    const allowed = (this.#call as HttpCall).replyBytesMax;
    return this.#bodyBytes > allowed
      ? `an answer of ${lengthText} bytes where ${allowed} are possible`
      : undefined;
  }

  #room(lengthBytes: number): NativeBuffer {
    if (this.#buffer === undefined || this.#buffer.bytes.length < lengthBytes)
      this.#buffer = this.allocate(2 ** Math.ceil(Math.log2(Math.max(lengthBytes, FIRST_BUFFER_BYTES))));
    return this.#buffer;
  }

  #violation(problem: string, consumed: number): number {
    this.connection.destroy(`it sent ${problem}`);
    return consumed;
  }
}

const [CR, LF] = [13, 10];

/** Position after the empty line that ends the head, or -1. */
function endOfHead(bytes: Uint8Array, start: number, end: number): number {
  for (let at = start; at + 3 < end; at++)
    if (bytes[at] === CR && bytes[at + 1] === LF && bytes[at + 2] === CR && bytes[at + 3] === LF)
      return at + 4;
  return -1;
}
