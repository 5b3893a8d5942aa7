/**
 * Fuzzes the NBD server: `bun test/fuzz/nbd.ts [inputs=1000000] [seed]`. Each input is one message, well-formed,
 * mutated or random, cut at random places, sent to a connection in handshake or in transmission whose device answers
 * late, out of order and with errors, and whose client stops reading, goes on, and vanishes. It fails on any
 * exception, on a reply that cannot be parsed, on a connection that hangs (a valid request without an answer),
 * and on anything left behind when all connections are gone: request memory, open devices, timers.
 */
import { assert } from "../../src/base";
import { DeviceStatus } from "../../src/blockdev";
import { HeapWatch } from "../support/heap-watch";
import type { MemoryStream } from "../support/memory-stream";
import { makeStage, type Stage } from "../support/nbd-session";
import { clientFlags, concat, infoData, metaData, option, parseReplies, request } from "../support/nbd-wire";

const DEVICE_BYTES = 1024 * 1024;
const STATUSES = Object.values(DeviceStatus);
/** What the heap may grow by over a run, from the first report to the last: nothing is kept for a connection that is gone. */
const HEAP_GROWTH_BYTES_MAX = 8 * 1024 * 1024;
const OPERATIONS = ["read", "write", "flush", "trim", "writeZeroes", "extents"] as const;

/** xorshift32: reproducible from the seed that a failure prints. */
class Dice {
  #state: number;
  constructor(seed: number) {
    this.#state = seed | 1;
  }
  below(limit: number): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) % limit;
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  pick<Value>(values: readonly Value[]): Value {
    return values[this.below(values.length)] as Value;
  }
  bytes(lengthBytes: number): Uint8Array {
    return Uint8Array.from({ length: lengthBytes }, () => this.below(256));
  }
}

async function breathe(): Promise<void> {
  for (let round = 0; round < 12; round++) await null;
}

function optionMessage(dice: Dice): Uint8Array {
  const name = dice.pick(["data", "other", "", "nope", "x".repeat(dice.below(5000))]);
  const number = dice.pick([1, 2, 3, 4, 5, 6, 6, 7, 8, 8, 9, 10, 10, 11, 12, dice.below(2 ** 31)]);
  switch (number) {
    case 6:
    case 7:
      return option(
        number,
        infoData(
          name,
          Array.from({ length: dice.below(6) }, () => dice.below(6)),
        ),
      );
    case 9:
    case 10:
      return option(number, metaData(name, dice.pick([[], ["base:allocation"], ["base:", "x:y"], [""]])));
    case 1:
      return option(1, new TextEncoder().encode(name));
    default:
      return option(number, dice.chance(70) ? undefined : dice.bytes(dice.below(40)));
  }
}

function requestMessage(dice: Dice, extended: boolean): Uint8Array {
  const command = dice.pick([0, 0, 0, 1, 1, 1, 3, 4, 5, 6, 7, 7, 8, dice.below(65_536)]);
  const flags = dice.chance(70) ? (extended && command === 1 ? 32 : 0) : dice.below(64);
  const offset = dice.chance(90) ? dice.below(DEVICE_BYTES) : 2n ** 63n + BigInt(dice.below(2 ** 31));
  const length = dice.pick([0, 1, 512, 4096, 8000, 40_000, dice.below(DEVICE_BYTES), dice.below(2 ** 31)]);
  const cookie = BigInt(dice.below(2 ** 31));
  if (command !== 1) return request({ command, flags, offset, length, cookie }, extended);
  const honest = Math.min(length, 60_000);
  const announced = dice.chance(97) ? honest : length;
  return request(
    { command, flags, offset, length: announced, payload: new Uint8Array(honest), cookie },
    extended,
  );
}

function mutate(dice: Dice, message: Uint8Array): Uint8Array {
  const kind = dice.below(100);
  if (kind < 75) return message;
  const copy = message.slice();
  if (kind < 90) {
    for (let count = 1 + dice.below(3); count > 0; count--) {
      const at = dice.below(copy.length);
      copy[at] = (copy[at] as number) ^ (1 << dice.below(8));
    }
    return copy;
  }
  if (kind < 96) return copy.subarray(0, dice.below(copy.length + 1));
  return dice.bytes(1 + dice.below(200));
}

function feedInPieces(dice: Dice, stream: MemoryStream, bytes: Uint8Array): void {
  if (dice.chance(60)) {
    stream.feed(bytes);
    return;
  }
  for (let at = 0; at < bytes.length; ) {
    const step = 1 + dice.below(dice.pick([3, 40, 5000, 100_000]));
    stream.feed(bytes.subarray(at, at + step));
    at += step;
  }
}

/** Device and client misbehave a little: answers come late, out of order, wrong; replies are not taken. */
async function stir(dice: Dice, stage: Stage, stream: MemoryStream): Promise<void> {
  stage.device.deferred = dice.chance(50);
  stage.device.failures.clear();
  if (dice.chance(10)) stage.device.failures.set(dice.pick(OPERATIONS), dice.pick(STATUSES));
  if (dice.chance(50)) stage.device.answer((count) => dice.below(count));
  if (dice.chance(10)) stream.holdOutput = !stream.holdOutput;
  if (dice.chance(5)) stage.clock.advance(dice.below(3000));
  await breathe();
}

async function toTransmission(dice: Dice, stream: MemoryStream): Promise<boolean> {
  const extended = dice.chance(40);
  stream.feed(concat(clientFlags(), option(extended ? 11 : 8)));
  stream.feed(option(10, metaData("data", ["base:allocation"])));
  await breathe();
  stream.feed(option(7, infoData("data")));
  await breathe();
  stream.take();
  return extended;
}

/** A valid request at the end of a healthy connection must be answered: else it hangs. */
async function probe(stage: Stage, stream: MemoryStream, extended: boolean): Promise<void> {
  stage.device.deferred = false;
  stage.device.failures.clear();
  stream.holdOutput = false;
  for (let round = 0; round < 50; round++) {
    stage.device.answer();
    stream.flush();
    await breathe();
  }
  if (stream.closed) return;
  // A write's body may still be expected, of up to 4 GiB: only a stream at a message's edge can be probed.
  const cookie = 0x7777_7777_7777_7777n;
  const before = stream.take();
  parseReplies(before);
  if (stream.unreadBytes > 0) return;
  stream.feed(request({ command: 3, cookie }, extended));
  await breathe();
  const after = parseReplies(stream.take());
  const answered = after.some((reply) => reply.cookie === cookie);
  assert(answered || stream.closed || swallowed(stream), "a valid request was not answered");
}

/** The probe went into the body of an unfinished write; zeroes finish it or show that it is not finite. */
function swallowed(stream: MemoryStream): boolean {
  for (let round = 0; round < 64; round++) {
    stream.feed(new Uint8Array(1024 * 1024));
    if (stream.closed || stream.take().length > 0) return true;
  }
  // Still waiting for a body of more than 64 MiB.
  return !stream.paused;
}

async function oneConnection(dice: Dice, stage: Stage, inputCountMax: number): Promise<number> {
  const stream = stage.connect();
  const inTransmission = dice.chance(75);
  let extended = false;
  if (inTransmission) extended = await toTransmission(dice, stream);
  else if (dice.chance(95)) stream.feed(clientFlags(dice.below(4)));
  const count = Math.min(inputCountMax, 1 + dice.below(60));
  let sent = 0;
  while (sent < count && !stream.closed) {
    const message = inTransmission ? requestMessage(dice, extended) : optionMessage(dice);
    feedInPieces(dice, stream, mutate(dice, message));
    sent++;
    await stir(dice, stage, stream);
  }
  if (inTransmission && !stream.closed) await probe(stage, stream, extended);
  stream.hangUp();
  stage.device.answer();
  await breathe();
  return sent;
}

export async function fuzzNbd(
  inputCount: number,
  seed: number,
  report?: (done: number, stage: Stage) => void,
): Promise<void> {
  const dice = new Dice(seed);
  const stage = makeStage({ bufferBytesMax: 64 * 1024 * 1024 }, DEVICE_BYTES);
  let done = 0;
  let connections = 0;
  while (done < inputCount) {
    const startMs = performance.now();
    const at = `seed ${seed}, connection ${connections}, input ${done}`;
    try {
      done += await oneConnection(dice, stage, inputCount - done);
    } catch (error) {
      throw new Error(`NBD fuzzing failed at ${at}`, { cause: error });
    }
    const tookMs = performance.now() - startMs;
    assert(tookMs < 20_000, `a connection took ${tookMs} ms at ${at}`);
    assert(stage.server.bufferPieceCount === 0, `request memory was left behind at ${at}`);
    assert(stage.server.statistics.connectionsOpen === 0, `a connection was left behind at ${at}`);
    for (const [name, count] of stage.directory.holders)
      assert(count === 0, `device ${name} still held at ${at}`);
    assert(stage.clock.timerCount === 0, `${stage.clock.timerCount} timers left behind at ${at}`);
    const internal = stage.events.find((event) => event.kind === "internal");
    assert(internal === undefined, `${internal?.message} at ${at}`);
    stage.events.length = 0;
    stage.device.calls.length = 0;
    connections++;
    if (connections % 2000 === 0) report?.(done, stage);
  }
}

if (import.meta.main) {
  const inputCount = Number(process.argv[2] ?? 1_000_000);
  const seed = Number(process.argv[3] ?? Date.now() % 2 ** 31);
  console.log(`NBD fuzzing: ${inputCount} inputs, seed ${seed}`);
  const startMs = performance.now();
  const heap = new HeapWatch(HEAP_GROWTH_BYTES_MAX);
  await fuzzNbd(inputCount, seed, (done, { server }) => {
    const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
    const heapBytes = heap.look(`input ${done}`);
    console.log(
      `${done} inputs in ${((performance.now() - startMs) / 1000).toFixed(0)} s, heap ${mebibytes(heapBytes)}, of it request memory ${mebibytes(server.bufferBytes)}; resident ${mebibytes(process.memoryUsage.rss())}`,
    );
  });
  console.log("no crash, leak or hang");
}
