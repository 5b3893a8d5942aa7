/** A small seeded generator (mulberry32), so that a scenario is the same wherever it is simulated. */
export interface SeededRandom {
  /** Uniform in 0 .. limit-1. */
  below(limit: number): number;
  uuid(): string;
}

export function seededRandom(seed: number): SeededRandom {
  let state = seed >>> 0;
  const nextU32 = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
  const hex = () => nextU32().toString(16).padStart(8, "0");
  return {
    below: (limit) => Math.floor((nextU32() / 2 ** 32) * limit),
    uuid: () => {
      const [a, b, c, d] = [hex(), hex(), hex(), hex()];
      return `${a}-${b.slice(0, 4)}-4${b.slice(5)}-8${c.slice(1, 4)}-${c.slice(4)}${d}`;
    },
  };
}
