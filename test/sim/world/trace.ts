/**
 * What happened, in words: one line per event that matters, with virtual time and who. All lines go into a hash, by
 * which two runs of one seed are compared; the newest are kept for the report of a failure, or all are printed.
 */
const KEPT_LINES_MAX = 4000;
const encoder = new TextEncoder();

export class Trace {
  lineCount = 0;
  /** Of all lines so far. */
  hash = 0;
  private readonly kept: string[] = [];
  private at = 0;

  constructor(private readonly print: ((line: string) => void) | undefined) {}

  line(nowMs: number, who: string, text: string): void {
    const line = `${nowMs.toFixed(3).padStart(12)}  ${who.padEnd(8)} ${text}`;
    this.lineCount += 1;
    this.hash = Bun.hash.crc32(encoder.encode(line), this.hash);
    this.print?.(line);
    this.kept[this.at] = line;
    this.at = (this.at + 1) % KEPT_LINES_MAX;
  }

  /** The newest lines, oldest first. */
  tail(count: number): string[] {
    const ordered = [...this.kept.slice(this.at), ...this.kept.slice(0, this.at)];
    return ordered.slice(-count);
  }
}
