import { describe, expect, test } from "bun:test";
import { TorusError } from "../../../../src/base";
import { settle } from "../../../support/memory-stream";
import { DEVICE_BYTES, makeStage, type Stage } from "../../../support/nbd-session";
import {
  Bytes,
  clientFlags,
  concat,
  infoData,
  metaData,
  type OptionReplyMessage,
  option,
  parseOptionReplies,
} from "../../../support/nbd-wire";

const GREETING_BYTES = 18;
const ACK = 1;
const SERVER = 2;
const INFO = 3;
const META = 4;
const ERR = 0x80000000;
const [UNSUP, POLICY, INVALID, TLS_REQD, UNKNOWN, TOO_BIG, EXT_REQD] = [1, 2, 3, 5, 6, 9, 10].map(
  (number) => ERR + number,
);
/** HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, MULTI_CONN, CACHE, FAST_ZERO. */
const FLAGS = 1 | 4 | 8 | 32 | 64 | 256 | 1024 | 2048;

async function haggle(stage: Stage, ...messages: Uint8Array[]) {
  const stream = stage.connect();
  stream.feed(clientFlags());
  stream.take();
  for (const message of messages) {
    stream.feed(message);
    await settle();
  }
  return { stream, replies: parseOptionReplies(stream.take()) };
}

const types = (replies: readonly OptionReplyMessage[]) => replies.map((reply) => reply.type);
const text = (reply: OptionReplyMessage | undefined) => new TextDecoder().decode(reply?.data);

describe("Handshake bounds", () => {
  test("options that nobody knows are counted like others", async () => {
    const stage = makeStage();
    const stream = stage.connect();
    stream.feed(clientFlags());
    for (let count = 0; count < 1100 && !stream.closed; count++) stream.feed(option(99));
    await settle();
    expect(stream.closeReason).toBe("NBD handshake: more than 1024 options");
  });

  test("a client that takes no answers and goes on asking is cut off", async () => {
    const stage = makeStage();
    stage.directory.list = async () =>
      Array.from({ length: 20_000 }, (_, index) => ({
        ...{ name: `${"n".repeat(200)}${index}`, description: "", sizeBytes: DEVICE_BYTES },
        ...{ readOnly: false, preferredBlockBytes: 4096 },
      }));
    const stream = stage.connect();
    stream.feed(clientFlags());
    stream.holdOutput = true;
    // One list of any length is answered whole.
    stream.feed(option(3));
    await settle();
    expect(stream.closed).toBe(false);
    expect(stream.queuedBytes).toBeGreaterThan(4 * 1024 * 1024);
    stream.feed(option(3));
    await settle();
    expect(stream.closeReason).toContain("bytes of answers were not taken");
  });
});

describe("Handshake greeting", () => {
  test("offers fixed newstyle and no zeroes", () => {
    const greeting = makeStage().connect().take();
    expect(greeting).toEqual(new Bytes().text("NBDMAGICIHAVEOPT").u16(3).done());
  });

  test("hangs up on client flags it does not know", () => {
    const stream = makeStage().connect();
    stream.feed(clientFlags(4));
    expect(stream.closeReason).toBe("NBD handshake: unknown client flags 0x4");
  });

  test("hangs up on an option without its magic", () => {
    const stream = makeStage().connect();
    stream.feed(concat(clientFlags(), new Uint8Array(16)));
    expect(stream.closeReason).toBe("NBD handshake: an option with a wrong magic");
  });
});

describe("Handshake option table", () => {
  const long = "n".repeat(4097);
  const truncated = infoData("data").subarray(0, 7);
  const cases: [string, Uint8Array, (number | undefined)[]][] = [
    ["LIST", option(3), [SERVER, SERVER, ACK]],
    ["LIST with data", option(3, new Uint8Array(1)), [INVALID]],
    ["INFO", option(6, infoData("data")), [INFO, ACK]],
    ["INFO of the default export", option(6, infoData("")), [INFO, ACK]],
    ["INFO with everything", option(6, infoData("data", [0, 1, 2, 3])), [INFO, INFO, INFO, INFO, ACK]],
    ["INFO with an unknown type", option(6, infoData("data", [77])), [INFO, ACK]],
    ["INFO of an unknown export", option(6, infoData("nope")), [UNKNOWN]],
    ["INFO with a name that is too long", option(6, infoData(long)), [INVALID]],
    ["INFO cut off", option(6, truncated), [INVALID]],
    ["INFO without data", option(6), [INVALID]],
    ["INFO with bytes left over", option(6, concat(infoData("data"), new Uint8Array(1))), [INVALID]],
    ["INFO with a NUL in the name", option(6, infoData("da\0ta")), [INVALID]],
    ["INFO with a name that is not UTF-8", option(6, Uint8Array.of(0, 0, 0, 1, 0xff, 0, 0)), [INVALID]],
    ["INFO whose name length lies", option(6, Uint8Array.of(255, 255, 255, 255, 65, 0, 0)), [INVALID]],
    ["GO to an unknown export", option(7, infoData("nope")), [UNKNOWN]],
    ["GO malformed", option(7, new Uint8Array(3)), [INVALID]],
    ["STRUCTURED_REPLY", option(8), [ACK]],
    ["STRUCTURED_REPLY with data", option(8, new Uint8Array(4)), [INVALID]],
    ["EXTENDED_HEADERS", option(11), [ACK]],
    ["EXTENDED_HEADERS with data", option(11, new Uint8Array(4)), [INVALID]],
    ["LIST_META_CONTEXT before structured replies", option(9, metaData("data", [])), [INVALID]],
    [
      "SET_META_CONTEXT before structured replies",
      option(10, metaData("data", ["base:allocation"])),
      [INVALID],
    ],
    ["STARTTLS without TLS here", option(5), [UNSUP]],
    ["STARTTLS with data", option(5, new Uint8Array(1)), [INVALID]],
    ["PEEK_EXPORT, withdrawn", option(4, new Uint8Array(9)), [UNSUP]],
    ["an unknown option", option(999), [UNSUP]],
    ["an unknown option with data", option(999, new Uint8Array(70_000)), [UNSUP]],
    ["a known option with too much data", option(6, new Uint8Array(20_000)), [TOO_BIG]],
  ];
  for (const [name, message, expected] of cases) {
    test(`${name}`, async () => {
      const { stream, replies } = await haggle(makeStage(), message);
      expect(types(replies)).toEqual(expected as number[]);
      // Whatever was refused, the next option is understood.
      stream.feed(option(3));
      await settle();
      expect(types(parseOptionReplies(stream.take())).at(-1)).toBe(ACK);
    });
  }

  const metaCases: [string, Uint8Array, (number | undefined)[]][] = [
    ["LIST_META_CONTEXT of everything", option(9, metaData("data", [])), [META, ACK]],
    ["LIST_META_CONTEXT of the base namespace", option(9, metaData("data", ["base:"])), [META, ACK]],
    ["LIST_META_CONTEXT of another namespace", option(9, metaData("data", ["qemu:dirty-bitmap:x"])), [ACK]],
    ["LIST_META_CONTEXT without a namespace", option(9, metaData("data", ["base"])), [INVALID]],
    ["LIST_META_CONTEXT of an unknown export", option(9, metaData("nope", [])), [UNKNOWN]],
    ["LIST_META_CONTEXT cut off", option(9, metaData("data", ["base:"]).subarray(0, 14)), [INVALID]],
    ["SET_META_CONTEXT", option(10, metaData("data", ["x-a:b", "base:allocation"])), [META, ACK]],
    ["SET_META_CONTEXT of nothing", option(10, metaData("data", [])), [ACK]],
    ["SET_META_CONTEXT of a whole namespace", option(10, metaData("data", ["base:"])), [ACK]],
    [
      "SET_META_CONTEXT claiming 2^32-1 queries",
      option(10, new Bytes().u32(0).u32(0xffffffff).done()),
      [INVALID],
    ],
    ["STRUCTURED_REPLY again", option(8), [ACK]],
  ];
  for (const [name, message, expected] of metaCases) {
    test(`${name}, after structured replies`, async () => {
      const { replies } = await haggle(makeStage(), option(8), message);
      expect(types(replies)).toEqual([ACK, ...(expected as number[])]);
    });
  }

  test("STRUCTURED_REPLY after extended headers is refused by its own error", async () => {
    const { replies } = await haggle(makeStage(), option(11), option(8));
    expect(types(replies)).toEqual([ACK, EXT_REQD as number]);
  });

  test("a context id is 1 once selected and 0 when only listed", async () => {
    const { replies } = await haggle(
      makeStage(),
      option(8),
      option(10, metaData("data", ["base:allocation"])),
      option(9, metaData("data", [])),
    );
    const named = (id: number) => new Bytes().u32(id).text("base:allocation").done();
    expect(replies[1]?.data).toEqual(named(1));
    expect(replies[3]?.data).toEqual(named(0));
  });
});

describe("Handshake information", () => {
  test("tells size, flags, name, description and block sizes", async () => {
    const { replies } = await haggle(makeStage(), option(6, infoData("data", [1, 2, 3])));
    expect(replies[0]?.data).toEqual(new Bytes().u16(0).u64(DEVICE_BYTES).u16(FLAGS).done());
    expect(replies[1]?.data).toEqual(new Bytes().u16(1).text("data").done());
    expect(replies[2]?.data).toEqual(new Bytes().u16(2).text("test volume").done());
    expect(replies[3]?.data).toEqual(
      new Bytes()
        .u16(3)
        .u32(1)
        .u32(4096)
        .u32(32 * 1024 * 1024)
        .done(),
    );
  });

  test("sets the don't-fragment flag only with structured replies", async () => {
    const { replies } = await haggle(makeStage(), option(8), option(6, infoData("data")));
    expect(replies[1]?.data).toEqual(
      new Bytes()
        .u16(0)
        .u64(DEVICE_BYTES)
        .u16(FLAGS | 128)
        .done(),
    );
  });

  test("a read-only export offers no writing commands", async () => {
    const stage = makeStage();
    stage.device.readOnly = true;
    const { replies } = await haggle(stage, option(6, infoData("data")));
    expect(replies[0]?.data).toEqual(
      new Bytes()
        .u16(0)
        .u64(DEVICE_BYTES)
        .u16(1 | 2 | 4 | 8 | 256 | 1024)
        .done(),
    );
  });

  test("lists names and descriptions", async () => {
    const { replies } = await haggle(makeStage(), option(3));
    expect(replies[0]?.data).toEqual(new Bytes().u32(4).text("data").text("test volume").done());
  });

  test("INFO opens no device", async () => {
    const stage = makeStage();
    await haggle(stage, option(6, infoData("data")));
    expect(stage.directory.holders.size).toBe(0);
  });
});

describe("Handshake endings", () => {
  test("ABORT is acknowledged, then the connection closes", async () => {
    const { stream, replies } = await haggle(makeStage(), option(2));
    expect(types(replies)).toEqual([ACK]);
    expect(stream.closed).toBe(true);
  });

  test("EXPORT_NAME goes over with 124 zeroes unless declined", async () => {
    for (const [flags, padding] of [
      [1, 124],
      [3, 0],
    ] as const) {
      const stream = makeStage().connect();
      stream.take();
      stream.feed(concat(clientFlags(flags), option(1, new TextEncoder().encode("data"))));
      await settle();
      const expected = new Bytes().u64(DEVICE_BYTES).u16(FLAGS).raw(new Uint8Array(padding)).done();
      expect(stream.take()).toEqual(expected);
    }
  });

  const fatal: [string, Uint8Array[], string][] = [
    ["an unknown export", [option(1, new TextEncoder().encode("nope"))], 'unknown export "nope"'],
    ["a name that is no text", [option(1, Uint8Array.of(0xff))], "an export name that is no text"],
    ["a name too long", [option(1, new Uint8Array(20_000))], "an export name too long"],
    [
      "extended headers",
      [option(11), option(1, new TextEncoder().encode("data"))],
      "EXPORT_NAME after extended headers",
    ],
  ];
  for (const [name, messages, reason] of fatal) {
    test(`EXPORT_NAME with ${name} hangs up`, async () => {
      const { stream } = await haggle(makeStage(), ...messages);
      expect(stream.closeReason).toBe(`NBD handshake: ${reason}`);
    });
  }

  test("a client that does not finish in time is dropped", () => {
    const stage = makeStage({ handshakeTimeoutMs: 500 });
    const stream = stage.connect();
    stage.clock.advance(499);
    expect(stream.closed).toBe(false);
    stage.clock.advance(1);
    expect(stream.closeReason).toBe("NBD handshake: not finished within 500 ms");
    expect(stage.server.statistics.connectionsOpen).toBe(0);
  });

  test("more connections than allowed are closed, and the place is free again later", async () => {
    const stage = makeStage({ connectionCountMax: 1 });
    const first = stage.connect();
    const second = stage.connect();
    stage.clock.advance(1);
    expect(second.closeReason).toBe("NBD server: too many connections");
    first.hangUp();
    expect(stage.connect().take().length).toBe(GREETING_BYTES);
  });

  test("a device opened for a client that is gone is given back", async () => {
    const stage = makeStage();
    const { promise, resolve } = Promise.withResolvers<void>();
    stage.directory.gate = promise;
    const { stream } = await haggle(stage, option(7, infoData("data")));
    stream.hangUp();
    resolve();
    await settle();
    expect(stage.directory.holders.get("data")).toBe(0);
  });

  test("a directory's refusal reaches the client with its reason", async () => {
    const stage = makeStage();
    stage.directory.failure = new TorusError("locked", 'Cannot open volume "data": it is attached by node-b');
    const { replies } = await haggle(stage, option(7, infoData("data")));
    expect(types(replies)).toEqual([POLICY as number]);
    expect(text(replies[0])).toBe('Cannot open volume "data": it is attached by node-b');
  });

  test("an error that nobody meant is reported, and not shown to the client", async () => {
    const stage = makeStage();
    stage.directory.failure = new RangeError("secret");
    const { replies } = await haggle(stage, option(7, infoData("data")));
    expect(text(replies[0])).toBe('Cannot open export "data": internal error');
    expect(stage.events.map((event) => event.message)).toEqual(['Cannot open export "data": secret']);
  });

  test("shutdown ends a connection in its handshake, and gives back what it was opening", async () => {
    const stage = makeStage();
    const { promise, resolve } = Promise.withResolvers<void>();
    stage.directory.gate = promise;
    const { stream } = await haggle(stage, option(7, infoData("data")));
    const closing = stage.server.close(1000);
    resolve();
    await settle();
    await closing;
    expect(stream.closed).toBe(true);
    expect(stage.directory.holders.get("data")).toBe(0);
  });
});

describe("Handshake TLS policy", () => {
  test("where TLS is required nothing but ABORT and STARTTLS is heard", async () => {
    const stream = makeStage().connect("required");
    stream.feed(clientFlags());
    stream.take();
    for (const message of [option(3), option(6, infoData("data")), option(7, infoData("data")), option(8)])
      stream.feed(message);
    await settle();
    expect(types(parseOptionReplies(stream.take()))).toEqual(Array(4).fill(TLS_REQD));
    stream.feed(option(1, new TextEncoder().encode("data")));
    expect(stream.closed).toBe(true);
  });

  test("inside TLS a second STARTTLS is invalid", async () => {
    const stream = makeStage().connect("established");
    stream.feed(clientFlags());
    stream.take();
    stream.feed(option(5));
    expect(types(parseOptionReplies(stream.take()))).toEqual([INVALID as number]);
  });
});
