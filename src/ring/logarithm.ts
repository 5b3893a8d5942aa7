/**
 * A natural logarithm that is the same on every machine. Math.log may differ in the last bit between engines and
 * processors, and one bit can swap two peers; this one uses only +, * and / on doubles, which IEEE 754 rounds the
 * same everywhere: a table of ln(1 + i/2048) from the series of the inverse hyperbolic tangent, and linear
 * interpolation (error below 3e-8, far finer than the hash's resolution matters).
 */
const STEPS = 2048;
const LN_TABLE = new Float64Array(STEPS + 2);
for (let i = 0; i <= STEPS + 1; i++) LN_TABLE[i] = seriesLn(1 + i / STEPS);
const LN_2 = LN_TABLE[STEPS] as number;

const POWER_OF_TWO = new Float64Array(34);
for (let i = 0, power = 1; i < 34; i++, power *= 2) POWER_OF_TWO[i] = power;

/** ln(x) for 1 <= x <= 2.001: twice the series of atanh((x-1)/(x+1)), whose argument is at most 1/3. */
function seriesLn(x: number): number {
  const s = (x - 1) / (x + 1);
  const square = s * s;
  let sum = 0;
  for (let k = 41; k >= 1; k -= 2) sum = sum * square + 1 / k;
  return 2 * s * sum;
}

/** -ln((hash + 1/2) / 2^32) for an unsigned 32-bit hash: exponentially distributed, in (0, 23). */
export function negativeLogOfHash(hash: number): number {
  const odd = 2 * hash + 1;
  const exponent = hash === 0 ? 0 : 32 - Math.clz32(hash);
  const position = (odd / (POWER_OF_TWO[exponent] as number) - 1) * STEPS;
  const step = position | 0;
  const low = LN_TABLE[step] as number;
  const mantissaLn = low + (position - step) * ((LN_TABLE[step + 1] as number) - low);
  return (33 - exponent) * LN_2 - mantissaLn;
}
