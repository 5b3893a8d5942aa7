import { describe, expect, test } from "bun:test";
import { SpaceShortage } from "../../../../src/engine/volume/space-shortage";
import { VirtualClock } from "../../../support/virtual-clock";

interface Stage {
  readonly shortage: SpaceShortage;
  readonly said: string[];
  /** Bytes that the next steps of cleaning gain. */
  gains: number[];
  pass(milliseconds: number): Promise<void>;
}

function stage(): Stage {
  const clock = new VirtualClock();
  const said: string[] = [];
  const self: Stage = {
    said,
    gains: [],
    shortage: new SpaceShortage({
      clock,
      hold: (held) => said.push(held ? "hold" : "let go"),
      refuse: (refused) => said.push(refused ? "refuse" : "accept"),
      checkpoint: async () => {
        said.push("checkpoint");
      },
      clean: async () => self.gains.shift() ?? 0,
      event: () => {},
    }),
    pass: async (milliseconds) => {
      for (let step = 0; step < milliseconds; step += 100) {
        for (let turn = 0; turn < 8; turn++) await Promise.resolve();
        clock.advance(100);
      }
    },
  };
  return self;
}

describe("SpaceShortage", () => {
  test("holds new data while cleaning gains, and lets it go when there is room again", async () => {
    const { shortage, said, gains, pass } = stage();
    gains.push(...Array.from({ length: 30 }, () => 4096));
    shortage.set(true);
    await pass(12_000);
    expect(said[0]).toBe("hold");
    expect(said).toContain("checkpoint");
    expect(said).not.toContain("refuse");
    shortage.set(false);
    expect(said.slice(-2)).toEqual(["accept", "let go"]);
  });

  test("refuses new data when nothing was gained for ten seconds", async () => {
    const { shortage, said, pass } = stage();
    shortage.set(true);
    await pass(9_000);
    expect(said).not.toContain("refuse");
    await pass(3_000);
    expect(said.filter((word) => word !== "checkpoint")).toEqual(["hold", "refuse", "let go"]);
    shortage.set(false);
    expect(said.at(-2)).toBe("accept");
  });

  test("refuses new data after a minute, whatever is gained", async () => {
    const { shortage, said, gains, pass } = stage();
    gains.push(...Array.from({ length: 1_000 }, () => 4096));
    shortage.set(true);
    await pass(55_000);
    expect(said).not.toContain("refuse");
    await pass(8_000);
    expect(said).toContain("refuse");
  });

  test("gives each shortage its own minute, also when room came and went within a step", async () => {
    const { shortage, said, gains, pass } = stage();
    gains.push(...Array.from({ length: 1_000 }, () => 4096));
    for (let time = 0; time < 8; time++) {
      shortage.set(true);
      await pass(10_000);
      shortage.set(false);
    }
    expect(said).not.toContain("refuse");
    shortage.set(true);
    await pass(63_000);
    expect(said).toContain("refuse");
  });

  test("refuses who waits when the volume ends, and does nothing afterwards", async () => {
    const { shortage, said, pass } = stage();
    shortage.set(true);
    shortage.stop();
    expect(said.slice(-2)).toEqual(["refuse", "let go"]);
    const count = said.length;
    await pass(5_000);
    shortage.set(false);
    expect(said.length).toBeLessThanOrEqual(count + 1);
  });
});
