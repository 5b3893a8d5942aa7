/**
 * An AoE initiator of its own, as a program: it finds a target, fills the start of its disk with bytes made from a
 * seed, with requests under way side by side, some of them sent twice on purpose and some answers thrown away as a
 * network would, reads everything back and compares. It prints one line of JSON.
 *
 *   bun aoe-client.ts INTERFACE MAJOR MINOR fill|check BYTES SEED
 */
import { AoeSocket, formatMac } from "../../../src/blockdev";
import { type NativeBuffer, assert } from "../../../src/base";
import { EventLoop } from "../../../src/base/io";
import { aoeFrame, type AoeAnswer, ataArgument, configArgument, EVERYBODY, readAnswer } from "../aoe-frames";
import { SeededRandom } from "../seeded-random";

const SECTOR = 512;
const WINDOW = 16;
const RESEND_MS = 200;
const GIVE_UP_MS = 60_000;

interface Pending {
  readonly bytes: Uint8Array;
  readonly answered: (answer: AoeAnswer) => void;
  readonly startedMs: number;
  sentMs: number;
}

class Initiator {
  readonly #pending = new Map<number, Pending>();
  readonly #socket: AoeSocket;
  #tag = 1;
  #target = EVERYBODY;
  readonly random = new SeededRandom(7);
  resentCount = 0;
  thrownAwayCount = 0;

  constructor(
    readonly loop: EventLoop,
    interfaceName: string,
    readonly major: number,
    readonly minor: number,
  ) {
    this.#socket = AoeSocket.open(loop, interfaceName, {
      onFrame: (frame, lengthBytes) => this.#receive(frame, lengthBytes),
      onGone: (reason) => {
        throw new Error(reason);
      },
    });
    const look = () => {
      this.#resend();
      loop.schedule(RESEND_MS / 4, look);
    };
    look();
  }

  get sectorCountMax(): number {
    return Math.floor((this.#socket.mtuBytes - 22) / SECTOR);
  }

  async ask(command: number, argument: Uint8Array): Promise<AoeAnswer> {
    const tag = this.#tag++;
    const bytes = aoeFrame({
      ...{ command, argument, tag, major: this.major, minor: this.minor, destination: this.#target },
      source: formatMac(this.#socket.address),
    });
    const answer = await new Promise<AoeAnswer>((answered) => {
      const nowMs = this.loop.nowMs();
      this.#pending.set(tag, { bytes, answered, startedMs: nowMs, sentMs: nowMs });
      this.#send(bytes);
      if (this.random.nextU32() % 50 === 0) this.#send(bytes);
    });
    if (answer.isError) throw new Error(`AoE error ${answer.error}`);
    return answer;
  }

  /** By broadcast; from then on frames go to the target's own address. */
  async discover(): Promise<{ sectorCountMax: number; target: string }> {
    const answer = await this.ask(1, configArgument(0));
    this.#target = answer.source;
    return { sectorCountMax: answer.argument[4]!, target: answer.source };
  }

  async ata(command: number, lba: number, count: number, data?: Uint8Array): Promise<AoeAnswer> {
    const answer = await this.ask(
      0,
      ataArgument({ command, lba, count, ...(data === undefined ? {} : { data }) }),
    );
    if (answer.ataStatus !== 0x40) throw new Error(`ATA status ${answer.ataStatus} error ${answer.ataError}`);
    return answer;
  }

  #send(bytes: Uint8Array): void {
    const frame = this.#socket.acquire();
    if (frame === undefined) return;
    frame.bytes.set(bytes);
    frame.bytes.fill(0, bytes.length, 60);
    this.#socket.send(frame, Math.max(bytes.length, 60));
  }

  #resend(): void {
    const nowMs = this.loop.nowMs();
    for (const [tag, pending] of this.#pending) {
      if (nowMs - pending.startedMs > GIVE_UP_MS) throw new Error(`no answer to tag ${tag}`);
      if (nowMs - pending.sentMs < RESEND_MS) continue;
      pending.sentMs = nowMs;
      this.resentCount++;
      this.#send(pending.bytes);
    }
  }

  #receive(frame: NativeBuffer, lengthBytes: number): void {
    const answer = readAnswer(frame.bytes.slice(0, lengthBytes));
    this.#socket.release(frame);
    const pending = this.#pending.get(answer.tag);
    if (!answer.isResponse || pending === undefined || answer.major !== this.major) return;
    if (this.random.nextU32() % 100 === 0) {
      this.thrownAwayCount++;
      return;
    }
    this.#pending.delete(answer.tag);
    pending.answered(answer);
  }
}

/** Runs `work` on 0, 1, ... count - 1, WINDOW of them at a time. */
async function inWindow(count: number, work: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: WINDOW }, async () => {
      while (next < count) await work(next++);
    }),
  );
}

/** What sector `lba` holds after a fill with this seed. */
function sectorBytes(lba: number, seed: number): Uint8Array {
  const words = new Uint32Array(SECTOR / 4);
  const random = new SeededRandom(seed * 1_000_003 + lba);
  for (let index = 0; index < words.length; index++) words[index] = random.nextU32();
  return new Uint8Array(words.buffer);
}

async function main(client: Initiator, mode: string, lengthBytes: number, seed: number): Promise<void> {
  const found = await client.discover();
  const identity = (await client.ata(0xec, 0, 1)).data;
  const view = new DataView(identity.buffer, identity.byteOffset);
  const sizeBytes = (view.getUint32(200, true) + view.getUint32(204, true) * 2 ** 32) * SECTOR;
  const sectors = lengthBytes / SECTOR;
  const perFrame = found.sectorCountMax;
  assert(perFrame <= client.sectorCountMax, "the target promises more than a frame holds");
  const frameCount = Math.ceil(sectors / perFrame);
  const range = (index: number) => {
    const lba = index * perFrame;
    return { lba, count: Math.min(perFrame, sectors - lba) };
  };
  const content = (lba: number, count: number) => {
    const bytes = new Uint8Array(count * SECTOR);
    for (let index = 0; index < count; index++) bytes.set(sectorBytes(lba + index, seed), index * SECTOR);
    return bytes;
  };
  if (mode === "fill") {
    await inWindow(frameCount, async (index) => {
      const { lba, count } = range(index);
      await client.ata(index % 2 === 0 ? 0x34 : 0x35, lba, count, content(lba, count));
    });
    await client.ata(0xea, 0, 0);
  }
  let wrong = 0;
  await inWindow(frameCount, async (index) => {
    const { lba, count } = range(index);
    const { data } = await client.ata(index % 2 === 0 ? 0x24 : 0x25, lba, count);
    if (!Buffer.from(data).equals(content(lba, count))) wrong++;
  });
  const { resentCount, thrownAwayCount } = client;
  console.log(JSON.stringify({ ...found, sizeBytes, frameCount, wrong, resentCount, thrownAwayCount }));
}

const [interfaceName = "", major = "", minor = "", mode = "", lengthBytes = "", seed = ""] =
  process.argv.slice(2);
const loop = new EventLoop({ blockMsMax: 5 });
void loop.run();
await main(
  new Initiator(loop, interfaceName, Number(major), Number(minor)),
  mode,
  Number(lengthBytes),
  Number(seed),
);
process.exit(0);
