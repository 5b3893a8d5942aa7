/**
 * Bars in a terminal: a quantity read at a glance, in eighths of a character cell, with a mark where it should end.
 */
import type { OutputStyle } from "./style";

const EIGHTHS = ["", "\u258f", "\u258e", "\u258d", "\u258c", "\u258b", "\u258a", "\u2589"] as const;
const FULL = "\u2588";

/** `widthCells` cells wide at value = maximum; padded with blanks to that width. */
export function renderBar(value: number, maximum: number, widthCells: number): string {
  const share = maximum > 0 ? Math.min(1, Math.max(0, value / maximum)) : 0;
  const eighths = Math.round(share * widthCells * 8);
  const bar = FULL.repeat(eighths >> 3) + EIGHTHS[eighths & 7];
  return bar + " ".repeat(Math.max(0, widthCells - ((eighths + 7) >> 3)));
}

export type Tone = "good" | "warn" | "bad" | "dim" | "bold";
const TONE_CODES: Readonly<Record<Tone, string>> = { good: "32", warn: "33", bad: "31", dim: "2", bold: "1" };

/** Colours the text when the style allows it. */
export function paint(text: string, tone: Tone, style: Pick<OutputStyle, "color">): string {
  return style.color ? `\u001b[${TONE_CODES[tone]}m${text}\u001b[0m` : text;
}
