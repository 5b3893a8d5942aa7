/** An NBD server over memory devices and one or more clients in memory: the stage of the NBD unit tests. */
import { heapBuffer } from "../../src/base";
import type { StreamNetwork } from "../../src/base/io/stream";
import { type NbdEvent, type NbdLimits, NbdServer, type TlsState } from "../../src/blockdev";
import { ManualClock } from "./manual-clock";
import { MemoryDevice, MemoryDirectory } from "./memory-device";
import { MemoryStream, settle } from "./memory-stream";
import {
  clientFlags,
  infoData,
  metaData,
  option,
  parseReplies,
  type ReplyMessage,
  type RequestFields,
  request,
} from "./nbd-wire";

/** A little more than the largest request. */
export const DEVICE_BYTES = 33 * 1024 * 1024;

const noNetwork: StreamNetwork = {
  listen: () => {
    throw new Error("unit tests hand connections in");
  },
  connect: () => {
    throw new Error("an NBD server does not connect");
  },
};

export interface Stage {
  readonly server: NbdServer;
  readonly device: MemoryDevice;
  readonly directory: MemoryDirectory;
  readonly clock: ManualClock;
  readonly events: NbdEvent[];
  connect(tls?: TlsState): MemoryStream;
}

export function makeStage(limits: Partial<NbdLimits> = {}, sizeBytes = DEVICE_BYTES): Stage {
  const device = new MemoryDevice("data", sizeBytes);
  const directory = new MemoryDirectory([device, new MemoryDevice("other", 1024 * 1024)]);
  const clock = new ManualClock();
  const events: NbdEvent[] = [];
  const server = new NbdServer({
    network: noNetwork,
    directory,
    clock,
    allocate: heapBuffer,
    limits,
    onEvent: (event) => events.push(event),
  });
  const connect = (tls: TlsState = "none") =>
    new MemoryStream((connection) => server.accept(connection, tls));
  return { server, device, directory, clock, events, connect };
}

export type Style = "simple" | "structured" | "extended";

/** A client in transmission on export "data". */
export class Session {
  readonly #readLengths = new Map<bigint, number>();
  private constructor(
    readonly stream: MemoryStream,
    readonly style: Style,
  ) {}

  static async open(stage: Stage, style: Style = "simple", exportName = "data"): Promise<Session> {
    const stream = stage.connect();
    stream.feed(clientFlags());
    if (style !== "simple") {
      stream.feed(option(style === "extended" ? 11 : 8));
      stream.feed(option(10, metaData(exportName, ["base:allocation"])));
      await settle();
    }
    stream.feed(option(7, infoData(exportName)));
    await settle();
    stream.take();
    return new Session(stream, style);
  }

  encode(fields: RequestFields): Uint8Array {
    if (fields.command === 0) this.#readLengths.set(fields.cookie ?? 1n, Number(fields.length ?? 0));
    // With extended headers a write says that its length is that of a payload.
    const flags = (fields.flags ?? 0) | (this.style === "extended" && fields.command === 1 ? 32 : 0);
    return request({ ...fields, flags }, this.style === "extended");
  }

  send(fields: RequestFields): void {
    this.stream.feed(this.encode(fields));
  }

  async replies(): Promise<ReplyMessage[]> {
    await settle();
    return parseReplies(this.stream.take(), (cookie) => this.#readLengths.get(cookie) ?? 0);
  }

  /** Sends and gives the error of the one reply. */
  async errorOf(fields: RequestFields): Promise<number> {
    this.send(fields);
    const replies = await this.replies();
    const last = replies.at(-1);
    if (last === undefined || !last.last)
      throw new Error(`no reply to ${JSON.stringify({ ...fields, cookie: 0 })}`);
    return last.error;
  }
}
