/** A writer is slowed down as the pool fills: by what is left, never stopped for long, and not at all while there is room. */
import { expect, test } from "bun:test";
import { SpacePace } from "../../../../src/engine/volume/space-pace";
import { VirtualClock } from "../../../support/virtual-clock";

const MIB = 1024 * 1024;
const STEP_MS = 5;
const DEPTH = 16;

interface Run {
  /** Written in each second, in MiB. */
  readonly seconds: number[];
  readonly questions: number;
  readonly tightened: number;
  /** The longest that a request waited. */
  readonly heldMsMax: number;
  readonly isHeldAfterwards: boolean;
}

/**
 * A pool with room for so many MiB, to which some MiB a second come back; a writer that writes so many when nothing
 * holds it, in requests of `requestMib`.
 */
async function run(options: {
  roomMib: number | undefined;
  backMib?: number;
  writerMib: (second: number) => number;
  seconds: number;
  requestMib?: number;
}): Promise<Run> {
  const clock = new VirtualClock();
  const requestBytes = (options.requestMib ?? 0.0625) * MIB;
  let [room, written, owed, held, heldMs, heldMsMax, questions, tightened] = [0, 0, 0, false, 0, 0, 0, 0];
  room = (options.roomMib ?? 0) * MIB;
  let waiting = 0;
  const letGo = (): void => {
    written += waiting * requestBytes;
    room -= waiting * requestBytes;
    waiting = 0;
    heldMs = 0;
  };
  const pace = new SpacePace(
    {
      clock,
      roomBytes: () => {
        questions++;
        return Promise.resolve(options.roomMib === undefined ? undefined : Math.max(0, room));
      },
      hold: (next) => {
        held = next;
        if (!held) letGo();
      },
      tighten: () => tightened++,
    },
    8 * MIB,
  );
  const seconds: number[] = [];
  for (let second = 0; second < options.seconds; second++) {
    const before = written;
    for (let ms = 0; ms < 1_000; ms += STEP_MS) {
      owed += (options.writerMib(second) * MIB * STEP_MS) / 1_000;
      room += ((options.backMib ?? 0) * MIB * STEP_MS) / 1_000;
      // Handed in as they come, sixteen at most at a time; written when nothing holds them.
      while (owed >= requestBytes && waiting < DEPTH) {
        pace.wrote(requestBytes);
        owed -= requestBytes;
        waiting++;
        if (!held) letGo();
      }
      owed = Math.min(owed, requestBytes * DEPTH);
      heldMs = waiting > 0 ? heldMs + STEP_MS : 0;
      heldMsMax = Math.max(heldMsMax, heldMs);
      clock.advance(STEP_MS);
      for (let turn = 0; turn < 4; turn++) await Promise.resolve();
    }
    pace.look();
    seconds.push((written - before) / MIB);
  }
  pace.stop();
  return { seconds, questions, tightened, heldMsMax, isHeldAfterwards: held };
}

test("a writer with room for many seconds is left alone", async () => {
  const { seconds, tightened, heldMsMax } = await run({
    roomMib: 100_000,
    writerMib: () => 300,
    seconds: 20,
  });
  expect(Math.min(...seconds.slice(1))).toBeGreaterThan(295);
  expect(tightened).toBe(0);
  expect(heldMsMax).toBe(0);
});

test("nobody is asked while little is written", async () => {
  const { questions } = await run({ roomMib: 100, writerMib: () => 10, seconds: 20 });
  expect(questions).toBe(0);
});

test("a writer that fills the pool settles where space comes back, in small waits", async () => {
  const { seconds, tightened, heldMsMax } = await run({
    roomMib: 2_000,
    backMib: 100,
    writerMib: () => 300,
    seconds: 40,
  });
  expect(seconds[1]).toBeGreaterThan(290);
  for (const rate of seconds.slice(-10)) expect(rate).toBeWithin(95, 110);
  expect(heldMsMax).toBeLessThan(100);
  expect(tightened).toBeGreaterThan(0);
});

test("where nothing comes back the end is reached all the same, and the pace is held for as long as it takes", async () => {
  const { seconds } = await run({ roomMib: 500, writerMib: () => 300, seconds: 240, requestMib: 0.1 });
  const total = seconds.reduce((sum, rate) => sum + rate, 0);
  expect(total).toBeGreaterThan(500);
  for (const rate of seconds.slice(39)) expect(rate).toBeWithin(7, 13);
});

test("a writer is not held for peers that say nothing any more", async () => {
  const clock = new VirtualClock();
  let [answers, held] = [true, false];
  const pace = new SpacePace(
    {
      clock,
      roomBytes: () => Promise.resolve(answers ? 10 * MIB : undefined),
      hold: (next) => {
        held = next;
      },
      tighten: () => {},
    },
    8 * MIB,
  );
  const heldSeconds: boolean[] = [];
  for (let second = 0; second < 30; second++) {
    if (second === 5) answers = false;
    let heldSteps = 0;
    for (let ms = 0; ms < 1_000; ms += STEP_MS) {
      if (!held) pace.wrote(2 * MIB);
      if (held) heldSteps++;
      clock.advance(STEP_MS);
      for (let turn = 0; turn < 4; turn++) await Promise.resolve();
    }
    heldSeconds.push(heldSteps > 0);
  }
  expect(heldSeconds[4]).toBe(true);
  expect(heldSeconds[8]).toBe(true);
  expect(heldSeconds.slice(12)).not.toContain(true);
});

test("a large request is owed for a moment, not for as long as it would take", async () => {
  const { heldMsMax } = await run({ roomMib: 40, writerMib: () => 300, seconds: 20, requestMib: 32 });
  expect(heldMsMax).toBeWithin(100, 400);
});

test("a writer that slows down by itself, or finds room again, is let go", async () => {
  const slower = await run({
    roomMib: 1_000,
    backMib: 50,
    writerMib: (second) => (second < 10 ? 300 : 1),
    seconds: 600,
  });
  expect(slower.questions).toBeLessThan(1_500);
  const { isHeldAfterwards, seconds } = await run({
    roomMib: 1_000,
    backMib: 400,
    writerMib: () => 300,
    seconds: 30,
  });
  expect(isHeldAfterwards).toBe(false);
  expect(Math.min(...seconds.slice(-10))).toBeGreaterThan(290);
});

test("peers that do not answer slow nobody down", async () => {
  const { seconds, tightened } = await run({ roomMib: undefined, writerMib: () => 300, seconds: 10 });
  expect(Math.min(...seconds.slice(1))).toBeGreaterThan(295);
  expect(tightened).toBe(0);
});

test("an idle writer is not asked for ever, however full the pool", async () => {
  const { questions, tightened, isHeldAfterwards } = await run({
    roomMib: 0,
    writerMib: (second) => (second < 3 ? 300 : 0),
    seconds: 3_600,
  });
  expect(questions).toBeWithin(10, 400);
  expect(questions - tightened).toBeWithin(0, 2);
  expect(isHeldAfterwards).toBe(false);
});

test("an idle writer is not asked for ever when nobody answers any more", async () => {
  const clock = new VirtualClock();
  let [questions, answers] = [0, true];
  const pace = new SpacePace(
    {
      clock,
      roomBytes: () => {
        questions++;
        return Promise.resolve(answers ? 0 : undefined);
      },
      hold: () => {},
      tighten: () => {},
    },
    8 * MIB,
  );
  for (let ms = 0; ms < 600_000; ms += 100) {
    if (ms < 3_000) pace.wrote(30 * MIB);
    if (ms === 3_000) answers = false;
    clock.advance(100);
    if (ms % 1_000 === 0) pace.look();
    for (let turn = 0; turn < 4; turn++) await Promise.resolve();
  }
  expect(questions).toBeWithin(10, 400);
});

test("room for less than a second is seen in time", async () => {
  const { seconds } = await run({ roomMib: 250, writerMib: (second) => (second < 5 ? 0 : 300), seconds: 7 });
  expect(seconds[5]).toBeLessThan(220);
});

test("whoever is let go may stop it", async () => {
  const clock = new VirtualClock();
  const held: boolean[] = [];
  const pace = new SpacePace(
    {
      clock,
      roomBytes: () => Promise.resolve(0),
      hold: (next) => {
        held.push(next);
        if (!next) pace.stop();
      },
      tighten: () => {},
    },
    8 * MIB,
  );
  clock.advance(1_000);
  pace.wrote(100 * MIB);
  pace.look();
  await Promise.resolve();
  await Promise.resolve();
  pace.wrote(MIB);
  clock.advance(60_000);
  expect(held).toEqual([true, false]);
});

test("stopping lets go", async () => {
  const { isHeldAfterwards } = await run({ roomMib: 1, writerMib: () => 300, seconds: 3 });
  expect(isHeldAfterwards).toBe(false);
});

interface Shared {
  /** Of all together, of the later half, MiB a second. */
  readonly rate: number;
  /** MiB. */
  readonly roomLeast: number;
  /** Time without any room. */
  readonly fullMs: number;
}

/**
 * Writers that share a pool, of so many MiB a second in all when nothing holds them. What one wrote comes back `backS`
 * later, at once or with the next collection.
 */
async function share(options: {
  writers: number;
  roomMib: number;
  demandMib: number;
  backS: number;
  collectEveryS?: number;
  /** They write for so long and rest for as long, by turns. */
  spellS?: number;
  seconds: number;
}): Promise<Shared> {
  const clock = new VirtualClock();
  const { writers: count, collectEveryS = 0, spellS = Number.POSITIVE_INFINITY } = options;
  let room = options.roomMib * MIB;
  let [roomLeast, fullMs, later] = [room, 0, 0];
  const dead: { readonly backAtMs: number; readonly bytes: number }[] = [];
  const requestBytes = MIB / 16;
  const writers = Array.from({ length: count }, () => {
    const writer = { held: false, owed: 0, waiting: 0 };
    const letGo = () => {
      if (writer.waiting === 0) return;
      const bytes = writer.waiting * requestBytes;
      room -= bytes;
      if (clock.nowMs() > options.seconds * 500) later += bytes;
      const backAtMs = clock.nowMs() + 1_000 * options.backS;
      dead.push({ backAtMs, bytes });
      writer.waiting = 0;
    };
    const pace = new SpacePace(
      {
        clock,
        roomBytes: () => Promise.resolve(Math.max(0, room)),
        hold: (next) => {
          writer.held = next;
          if (!next) letGo();
        },
        tighten: () => undefined,
      },
      8 * MIB,
    );
    return { writer, letGo, pace };
  });
  let collectAtMs = 1_000 * collectEveryS;
  for (let ms = 0; ms < 1_000 * options.seconds; ms += STEP_MS) {
    if (clock.nowMs() >= collectAtMs) {
      collectAtMs += 1_000 * collectEveryS;
      while (dead.length > 0 && (dead[0]?.backAtMs as number) <= clock.nowMs())
        room += dead.shift()?.bytes as number;
    }
    for (const { writer, letGo, pace } of writers) {
      const isResting = Math.floor(ms / 1_000 / spellS) % 2 === 1;
      if (!isResting) writer.owed += (options.demandMib * MIB * STEP_MS) / 1_000 / count;
      while (writer.owed >= requestBytes && writer.waiting < 64) {
        pace.wrote(requestBytes);
        writer.owed -= requestBytes;
        writer.waiting++;
        if (!writer.held) letGo();
      }
      writer.owed = Math.min(writer.owed, 64 * requestBytes);
      if (ms % 1_000 === 0) pace.look();
    }
    roomLeast = Math.min(roomLeast, room);
    if (room <= 0) fullMs += STEP_MS;
    clock.advance(STEP_MS);
    for (let turn = 0; turn < 4; turn++) await Promise.resolve();
  }
  for (const { pace } of writers) pace.stop();
  return { rate: later / MIB / (options.seconds / 2), roomLeast: roomLeast / MIB, fullMs };
}

test("a writer alone, whose space comes back soon, is not held up much", async () => {
  const { rate, roomLeast } = await share({
    writers: 1,
    roomMib: 2_048,
    demandMib: 700,
    backS: 2,
    seconds: 40,
  });
  expect(rate).toBeGreaterThan(500);
  expect(roomLeast).toBeGreaterThan(400);
});

test("nor is a writer alone that rests now and then", async () => {
  const { rate } = await share({
    writers: 1,
    roomMib: 2_048,
    demandMib: 700,
    backS: 1,
    collectEveryS: 2,
    spellS: 4,
    seconds: 80,
  });
  expect(rate).toBeGreaterThan(285);
});

test("nor does the room end where collections are ten seconds apart, or writers several", async () => {
  for (const others of [
    { writers: 1, backS: 1, collectEveryS: 10 },
    { writers: 4, backS: 4 },
  ]) {
    const { roomLeast, fullMs } = await share({ roomMib: 2_048, demandMib: 700, seconds: 60, ...others });
    expect([others, fullMs]).toEqual([others, 0]);
    expect(roomLeast).toBeGreaterThan(0);
  }
});
