/**
 * A client of our own for a real NBD server, over TCP and over TLS by STARTTLS: for what no installed client can ask
 * (extended headers), or does not do on purpose (taking no answers, stopping in the middle of the handshake).
 */
import { readFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import {
  clientFlags,
  concat,
  infoData,
  metaData,
  option,
  type OptionReplyMessage,
  parseOptionReplies,
  parseReplies,
  type ReplyMessage,
  request,
  type RequestFields,
} from "./nbd-wire";

const GREETING_BYTES = 18;
const OPTION_REPLY_BYTES = 20;
const ANSWER_MS_MAX = 60_000;
const Option = { startTls: 5, go: 7, setMetaContext: 10, extendedHeaders: 11 } as const;
export const OptionReply = { ack: 1, info: 3, metaContext: 4 } as const;

/** PEM files of a client. */
export interface ClientCertificate {
  readonly certFile: string;
  readonly keyFile: string;
  readonly caFile: string;
}

export class NbdConnection {
  readonly #received: Uint8Array[] = [];
  #receivedBytes = 0;
  #wake: () => void = () => undefined;
  #closed = false;
  #socket: Socket;
  extended = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#listen();
  }

  /** Connected, and past the greeting. */
  static async open(port: number): Promise<NbdConnection> {
    const socket = connect(port, "127.0.0.1");
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    const connection = new NbdConnection(socket);
    await connection.take(GREETING_BYTES);
    return connection;
  }

  get closed(): boolean {
    return this.#closed;
  }

  send(...parts: Uint8Array[]): void {
    this.#socket.write(concat(...parts));
  }

  /** Takes no more from the kernel, so that the server's answers stay with the server. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  close(): void {
    this.#socket.destroy();
  }

  /** The next bytes; throws when the server closes before they are there. */
  async take(lengthBytes: number): Promise<Uint8Array> {
    await this.until(() => this.#receivedBytes >= lengthBytes, `${lengthBytes} bytes`);
    const taken = new Uint8Array(lengthBytes);
    for (let at = 0; at < lengthBytes; ) {
      const first = this.#received[0] as Uint8Array;
      const part = first.subarray(0, lengthBytes - at);
      taken.set(part, at);
      at += part.length;
      if (part.length === first.length) this.#received.shift();
      else this.#received[0] = first.subarray(part.length);
    }
    this.#receivedBytes -= lengthBytes;
    return taken;
  }

  /** Waits for what arrives to fulfil a condition. */
  async until(condition: () => boolean, what: string): Promise<void> {
    const deadlineMs = performance.now() + ANSWER_MS_MAX;
    while (!condition()) {
      if (this.#closed) throw new Error(`The server closed the connection before it sent ${what}`);
      if (performance.now() > deadlineMs) throw new Error(`The server sent no ${what}`);
      await Promise.race([new Promise<void>((resolve) => (this.#wake = resolve)), Bun.sleep(100)]);
    }
  }

  /** Waits until the server has closed. */
  async untilClosed(): Promise<void> {
    await this.until(() => this.#closed, "its end").catch((error: unknown) => {
      if (!this.#closed) throw error;
    });
  }

  /** One option and its replies, to the one that ends them. */
  async option(number: number, data?: Uint8Array): Promise<OptionReplyMessage[]> {
    this.send(option(number, data));
    const replies: OptionReplyMessage[] = [];
    for (;;) {
      const header = await this.take(OPTION_REPLY_BYTES);
      const lengthBytes = new DataView(header.buffer).getUint32(16);
      const [reply] = parseOptionReplies(concat(header, await this.take(lengthBytes)));
      replies.push(reply as OptionReplyMessage);
      if (reply?.type !== OptionReply.info && reply?.type !== OptionReply.metaContext) return replies;
    }
  }

  async startTls({ certFile, keyFile, caFile }: ClientCertificate): Promise<void> {
    const [reply] = await this.option(Option.startTls);
    if (reply?.type !== OptionReply.ack) throw new Error(`STARTTLS was answered with ${reply?.type}`);
    this.#socket.removeAllListeners();
    const [cert, key, ca] = [certFile, keyFile, caFile].map((file) => readFileSync(file, "utf8"));
    const secured = connectTls({ socket: this.#socket, cert, key, ca, servername: "localhost" });
    await new Promise<void>((resolve, reject) => {
      secured.once("secureConnect", resolve);
      secured.once("error", reject);
    });
    this.#socket = secured;
    this.#listen();
  }

  /** Into transmission, with extended headers and the allocation context. */
  async goExtended(exportName: string): Promise<void> {
    const asked = [
      await this.option(Option.extendedHeaders),
      await this.option(Option.setMetaContext, metaData(exportName, ["base:allocation"])),
      await this.option(Option.go, infoData(exportName)),
    ];
    for (const replies of asked)
      if (replies.at(-1)?.type !== OptionReply.ack)
        throw new Error(`Option ${replies.at(-1)?.option} was answered with ${replies.at(-1)?.type}`);
    this.extended = true;
  }

  /** The first client flags; to be sent before any option. */
  greet(): void {
    this.send(clientFlags());
  }

  /** One request and all chunks of its answer. */
  async ask(fields: RequestFields): Promise<ReplyMessage[]> {
    this.send(request(fields, this.extended));
    return this.answer();
  }

  /** All chunks of the next answer. */
  async answer(): Promise<ReplyMessage[]> {
    const chunks: ReplyMessage[] = [];
    for (;;) {
      const headerBytes = this.extended ? 32 : 20;
      const header = await this.take(headerBytes);
      const view = new DataView(header.buffer);
      const lengthBytes = this.extended ? Number(view.getBigUint64(24)) : view.getUint32(16);
      const [chunk] = parseReplies(concat(header, await this.take(lengthBytes)));
      chunks.push(chunk as ReplyMessage);
      if (chunk?.last) return chunks;
    }
  }

  #listen(): void {
    this.#socket.on("data", (data: Buffer) => {
      this.#received.push(data);
      this.#receivedBytes += data.length;
      this.#wake();
    });
    const ended = () => {
      this.#closed = true;
      this.#wake();
    };
    this.#socket.on("close", ended);
    this.#socket.on("end", ended);
    this.#socket.on("error", ended);
  }
}
