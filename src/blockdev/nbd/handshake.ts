/**
 * The first phase of an NBD connection, as a handler on its byte stream: greeting, then options until one of them
 * (GO or EXPORT_NAME) opens an export and the connection goes over to transmission. Fixed newstyle only.
 *
 * While a directory call is under way the connection is paused, so options are answered strictly one after
 * another. An option we do not know, or one too large to be meant, is skipped to its end and refused by name; bad
 * framing (a wrong magic, unknown client flags) ends the connection, as nothing after it can be trusted.
 */
import { assert, type NativeBuffer, TorusError } from "../../base";
import type { StreamConnection, StreamHandler } from "../../base/io";
import type { BlockDevice, DeviceDescription, DeviceDirectory } from "../device";
import {
  encodeBlockSizeInfo,
  encodeExportInfo,
  encodeMetaContext,
  encodeOptionReply,
  encodeServerEntry,
  encodeText,
  encodeTextInfo,
  parseInfoRequest,
  parseMetaContextRequest,
  parseString,
  setU64,
  transmissionFlags,
  wantsAllocation,
} from "./options";
import {
  ALLOCATION_CONTEXT,
  ALLOCATION_CONTEXT_ID,
  EXPORT_NAME_PADDING_BYTES,
  HandshakeFlag,
  Info,
  Magic,
  OPTION_BYTES,
  Option,
  OptionReply,
} from "./protocol";

/** Options larger than this are skipped unread: the largest honest one is a name and a few queries. */
const OPTION_DATA_BYTES_MAX = 16 * 1024;
const OPTION_COUNT_MAX = 1024;
/** A client that lets more answers than this lie untaken, and goes on asking, is cut off: more than any list needs. */
const UNTAKEN_BYTES_MAX = 4 * 1024 * 1024;

export interface OpenExport {
  readonly device: BlockDevice;
  release(): Promise<void>;
}

/** How replies look in the transmission phase. */
export type ReplyStyle = "simple" | "structured" | "extended";

export interface Negotiated {
  readonly open: OpenExport;
  readonly style: ReplyStyle;
  readonly allocationContext: boolean;
}

/**
 * `none`: TLS is neither there nor to be had here. `offered`: a client may ask for it by STARTTLS. `required`: until it
 * does, everything but ABORT is refused. `established`: the stream already runs inside TLS, ended in front of this server.
 */
export type TlsState = "none" | "offered" | "required" | "established";

/** What is kept of a handshake when STARTTLS was met: it goes on with options; everything else is forgotten. */
export interface ResumedHandshake {
  readonly noZeroes: boolean;
}

/** The server, as the handshake sees it. */
export interface HandshakeHost {
  readonly directory: DeviceDirectory;
  /** Takes the connection over; from now on its handler is another. */
  negotiated(result: Negotiated): void;
  /** The connection is over before it came to transmission. */
  closed(reason: string | undefined): void;
  /** STARTTLS was agreed to; nothing more is read here. Undefined: there is no TLS to be had. */
  readonly startTls: ((resumed: ResumedHandshake) => void) | undefined;
  /** Something threw that is not the client's doing. */
  failed(action: string, error: unknown): void;
}

type State =
  | { readonly kind: "clientFlags" }
  | { readonly kind: "option" }
  | {
      readonly kind: "skip";
      remainingBytes: number;
      readonly option: number;
      readonly reply: number;
      readonly text: string;
    }
  /** A directory call runs; input is paused. */
  | { readonly kind: "waiting" }
  | { readonly kind: "over" };

const KNOWN_OPTIONS: ReadonlySet<number> = new Set(Object.values(Option));

export class Handshake implements StreamHandler {
  #state: State = { kind: "clientFlags" };
  #noZeroes = false;
  #style: ReplyStyle = "simple";
  #allocationExport: string | undefined;
  #optionCount = 0;

  constructor(
    private readonly connection: StreamConnection,
    private readonly host: HandshakeHost,
    private readonly tls: TlsState,
    resumed?: ResumedHandshake,
  ) {
    if (resumed !== undefined) {
      this.#noZeroes = resumed.noZeroes;
      this.#state = { kind: "option" };
      return;
    }
    const greeting = new Uint8Array(18);
    const view = new DataView(greeting.buffer);
    view.setUint32(0, Magic.serverHigh);
    view.setUint32(4, Magic.serverLow);
    view.setUint32(8, Magic.optionHigh);
    view.setUint32(12, Magic.optionLow);
    view.setUint16(16, HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes);
    connection.write(greeting, 0, greeting.length);
  }

  onData(buffer: NativeBuffer, start: number, end: number): number {
    let position = start;
    for (;;) {
      const consumed = this.#step(buffer, position, end);
      if (consumed === 0) return position - start;
      position += consumed;
    }
  }

  onReceived(): void {
    assert(false, "The NBD handshake receives no bodies");
  }

  onClose(reason: string | undefined): void {
    if (this.#state.kind === "over") return;
    this.#state = { kind: "over" };
    this.host.closed(reason);
  }

  /** One message off the input; 0 when it is not whole, or nothing more may be read now. */
  #step(buffer: NativeBuffer, position: number, end: number): number {
    const state = this.#state;
    const available = end - position;
    switch (state.kind) {
      case "over":
        return available;
      case "waiting":
        return 0;
      case "clientFlags":
        if (available < 4) return 0;
        this.#clientFlags(buffer.view.getUint32(position));
        return 4;
      case "skip": {
        const skipped = Math.min(available, state.remainingBytes);
        state.remainingBytes -= skipped;
        if (state.remainingBytes === 0) {
          this.#state = { kind: "option" };
          this.#refuse(state.option, state.reply, state.text);
        }
        return skipped;
      }
      case "option":
        return this.#option(buffer, position, available);
    }
  }

  #clientFlags(flags: number): void {
    if ((flags & ~(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes)) !== 0) {
      this.#hangUp(`unknown client flags 0x${flags.toString(16)}`);
      return;
    }
    this.#noZeroes = (flags & HandshakeFlag.noZeroes) !== 0;
    this.#state = { kind: "option" };
  }

  #option(buffer: NativeBuffer, position: number, available: number): number {
    if (available < OPTION_BYTES) return 0;
    const { view } = buffer;
    if (view.getUint32(position) !== Magic.optionHigh || view.getUint32(position + 4) !== Magic.optionLow) {
      this.#hangUp("an option with a wrong magic");
      return available;
    }
    const option = view.getUint32(position + 8);
    const lengthBytes = view.getUint32(position + 12);
    if (this.connection.queuedBytes > UNTAKEN_BYTES_MAX) {
      this.#hangUp(`more than ${UNTAKEN_BYTES_MAX} bytes of answers were not taken`);
      return available;
    }
    if (lengthBytes > OPTION_DATA_BYTES_MAX || !KNOWN_OPTIONS.has(option)) {
      if (this.#isOneTooMany()) return available;
      this.#skip(option, lengthBytes);
      return OPTION_BYTES;
    }
    if (available < OPTION_BYTES + lengthBytes) return 0;
    if (this.#isOneTooMany()) return available;
    // A copy: the receive buffer is not ours once a directory call is awaited.
    const from = position + OPTION_BYTES;
    // Bytes sent behind STARTTLS before it was answered would be taken for part of what TLS protects.
    if (option === Option.startTls && available > OPTION_BYTES + lengthBytes) {
      this.#hangUp("bytes behind STARTTLS");
      return available;
    }
    this.#handle(option, buffer.bytes.slice(from, from + lengthBytes));
    return OPTION_BYTES + lengthBytes;
  }

  /** Counts an option, known or not; true when the connection was ended for their number. */
  #isOneTooMany(): boolean {
    if (++this.#optionCount <= OPTION_COUNT_MAX) return false;
    this.#hangUp(`more than ${OPTION_COUNT_MAX} options`);
    return true;
  }

  #skip(option: number, lengthBytes: number): void {
    // EXPORT_NAME has no error reply: the only refusal is to hang up.
    if (option === Option.exportName) {
      this.#hangUp("an export name too long");
      return;
    }
    const known = KNOWN_OPTIONS.has(option);
    const reply = known ? OptionReply.errorTooBig : OptionReply.errorUnsupported;
    const text = known
      ? `option data of ${lengthBytes} bytes is too large`
      : `option ${option} is not supported`;
    if (lengthBytes === 0) {
      this.#refuse(option, reply, text);
      return;
    }
    this.#state = { kind: "skip", remainingBytes: lengthBytes, option, reply, text };
  }

  #handle(option: number, data: Uint8Array): void {
    if (option === Option.abort) {
      this.#abort();
      return;
    }
    if (option === Option.startTls) {
      this.#startTls(data);
      return;
    }
    if (this.tls === "required") {
      if (option === Option.exportName) {
        this.#hangUp("an export was asked for without TLS");
        return;
      }
      this.#refuse(option, OptionReply.errorTlsRequired, "this server requires TLS");
      return;
    }
    switch (option) {
      case Option.exportName:
        this.#exportName(data);
        return;
      case Option.list:
        this.#list(data);
        return;
      case Option.info:
      case Option.go:
        this.#infoOrGo(option, data);
        return;
      case Option.structuredReply:
      case Option.extendedHeaders:
        this.#replyStyle(option, data);
        return;
      case Option.listMetaContext:
      case Option.setMetaContext:
        this.#metaContext(option, data);
        return;
      default:
        assert(false, `Option ${option} is in the table but not handled`);
    }
  }

  #abort(): void {
    this.#reply(Option.abort, OptionReply.ack);
    this.#state = { kind: "over" };
    this.connection.end();
    this.host.closed(undefined);
  }

  #startTls(data: Uint8Array): void {
    if (data.length > 0) {
      this.#refuse(Option.startTls, OptionReply.errorInvalid, "STARTTLS takes no data");
      return;
    }
    if (this.tls === "established") {
      this.#refuse(Option.startTls, OptionReply.errorInvalid, "TLS is already established");
      return;
    }
    const { startTls } = this.host;
    if (this.tls === "none" || startTls === undefined || this.connection.handOver === undefined) {
      this.#refuse(Option.startTls, OptionReply.errorUnsupported, "this server has no TLS certificate");
      return;
    }
    this.#reply(Option.startTls, OptionReply.ack);
    this.#state = { kind: "waiting" };
    startTls({ noZeroes: this.#noZeroes });
  }

  #replyStyle(option: number, data: Uint8Array): void {
    if (data.length > 0) {
      this.#refuse(option, OptionReply.errorInvalid, "this option takes no data");
      return;
    }
    if (option === Option.structuredReply && this.#style === "extended") {
      this.#refuse(option, OptionReply.errorExtendedHeadersRequired, "extended headers are already agreed");
      return;
    }
    this.#style = option === Option.extendedHeaders ? "extended" : "structured";
    this.#reply(option, OptionReply.ack);
  }

  #list(data: Uint8Array): void {
    if (data.length > 0) {
      this.#refuse(Option.list, OptionReply.errorInvalid, "LIST takes no data");
      return;
    }
    this.#await(Option.list, "list the exports", this.host.directory.list(), (devices) => {
      for (const device of devices) this.#reply(Option.list, OptionReply.server, encodeServerEntry(device));
      this.#reply(Option.list, OptionReply.ack);
    });
  }

  #metaContext(option: number, data: Uint8Array): void {
    const selecting = option === Option.setMetaContext;
    if (selecting) this.#allocationExport = undefined;
    if (this.#style === "simple") {
      this.#refuse(option, OptionReply.errorInvalid, "structured replies must be agreed first");
      return;
    }
    const request = parseMetaContextRequest(data);
    if (request === undefined) {
      this.#refuse(option, OptionReply.errorInvalid, "malformed metadata context query");
      return;
    }
    const { exportName, queries } = request;
    this.#await(
      option,
      `describe export "${exportName}"`,
      this.host.directory.describe(exportName),
      (device) => {
        if (device === undefined) return this.#refuseUnknown(option, exportName);
        if (wantsAllocation(queries, !selecting)) {
          if (selecting) this.#allocationExport = exportName;
          const contextId = selecting ? ALLOCATION_CONTEXT_ID : 0;
          this.#reply(option, OptionReply.metaContext, encodeMetaContext(contextId, ALLOCATION_CONTEXT));
        }
        this.#reply(option, OptionReply.ack);
      },
    );
  }

  #infoOrGo(option: number, data: Uint8Array): void {
    const request = parseInfoRequest(data);
    if (request === undefined) {
      this.#refuse(option, OptionReply.errorInvalid, "malformed export request");
      return;
    }
    const { exportName, informationTypes } = request;
    if (option === Option.info) {
      const described = this.host.directory.describe(exportName);
      this.#await(option, `describe export "${exportName}"`, described, (device) => {
        if (device === undefined) return this.#refuseUnknown(option, exportName);
        this.#sendInformation(option, device, informationTypes);
        this.#reply(option, OptionReply.ack);
      });
      return;
    }
    this.#acquire(option, exportName, (open) => {
      if (open === undefined) return this.#refuseUnknown(option, exportName);
      this.#sendInformation(option, open.device, informationTypes);
      this.#reply(option, OptionReply.ack);
      this.#goOver(open, exportName);
    });
  }

  #sendInformation(option: number, device: DeviceDescription, types: readonly number[]): void {
    const flags = transmissionFlags(device.readOnly, this.#style !== "simple");
    this.#reply(option, OptionReply.info, encodeExportInfo(device.sizeBytes, flags));
    if (types.includes(Info.name))
      this.#reply(option, OptionReply.info, encodeTextInfo(Info.name, device.name));
    if (types.includes(Info.description))
      this.#reply(option, OptionReply.info, encodeTextInfo(Info.description, device.description));
    if (types.includes(Info.blockSize))
      this.#reply(option, OptionReply.info, encodeBlockSizeInfo(device.preferredBlockBytes));
  }

  #exportName(data: Uint8Array): void {
    const exportName = parseString(data);
    if (exportName === undefined) {
      this.#hangUp("an export name that is no text");
      return;
    }
    // Extended headers may only be entered through GO.
    if (this.#style === "extended") {
      this.#hangUp("EXPORT_NAME after extended headers");
      return;
    }
    this.#acquire(Option.exportName, exportName, (open) => {
      if (open === undefined) return this.#hangUp(`unknown export "${exportName}"`);
      const reply = new Uint8Array(10 + (this.#noZeroes ? 0 : EXPORT_NAME_PADDING_BYTES));
      const view = new DataView(reply.buffer);
      setU64(view, 0, open.device.sizeBytes);
      view.setUint16(8, transmissionFlags(open.device.readOnly, this.#style !== "simple"));
      this.connection.write(reply, 0, reply.length);
      this.#goOver(open, exportName);
    });
  }

  #goOver(open: OpenExport, exportName: string): void {
    this.#state = { kind: "over" };
    const allocationContext = this.#allocationExport === exportName;
    this.host.negotiated({ open, style: this.#style, allocationContext });
  }

  /** Opens an export; one that arrives after the connection ended is given back. */
  #acquire(option: number, exportName: string, then: (open: OpenExport | undefined) => void): void {
    const action = `open export "${exportName}"`;
    const opening = this.host.directory.acquire(exportName).then(async (open) => {
      if (open !== undefined && this.#state.kind === "over") await open.release();
      return open;
    });
    this.#await(option, action, opening, then);
  }

  /** Runs `then` with the outcome, input paused meanwhile; a refusal by the directory becomes an error reply. */
  #await<Value>(option: number, action: string, promise: Promise<Value>, then: (value: Value) => void): void {
    this.#state = { kind: "waiting" };
    this.connection.pause();
    const proceed = (next: () => void) => {
      if (this.#state.kind !== "waiting") return;
      this.#state = { kind: "option" };
      next();
      if ((this.#state as State).kind !== "over" || this.connection.handler !== this)
        this.connection.resume();
    };
    promise
      .then(
        (value) => proceed(() => then(value)),
        (error: unknown) => {
          if (!(error instanceof TorusError)) this.host.failed(action, error);
          const text = error instanceof TorusError ? error.message : `Cannot ${action}: internal error`;
          proceed(() => {
            if (option === Option.exportName) this.#hangUp(text);
            else this.#refuse(option, OptionReply.errorPolicy, text);
          });
        },
      )
      .catch((error: unknown) => {
        // A bug of ours in answering must not leave the client hanging, nor pass unseen.
        this.host.failed(action, error);
        this.#hangUp("internal error");
      });
  }

  #refuseUnknown(option: number, exportName: string): void {
    this.#refuse(option, OptionReply.errorUnknown, `there is no export "${exportName}"`);
  }

  #refuse(option: number, type: number, text: string): void {
    this.#reply(option, type, encodeText(text));
  }

  #reply(option: number, type: number, data?: Uint8Array): void {
    const reply = encodeOptionReply(option, type, data);
    this.connection.write(reply, 0, reply.length);
  }

  #hangUp(reason: string): void {
    if (this.#state.kind === "over") return;
    this.connection.destroy(`NBD handshake: ${reason}`);
  }
}
