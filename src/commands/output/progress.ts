/** The progress of long work: a line drawn anew on a terminal (rate, share, time left), nothing in a pipe or a log. */
import { formatDuration, formatSize } from "../../base";
import { renderBar } from "./bars";

const REDRAW_MS = 200;
const BAR_CELLS = 24;

export interface ProgressOptions {
  readonly title: string;
  /** Undefined while nobody knows. */
  readonly totalBytes: number | undefined;
  /** Draw even where stderr is no terminal, one line a redraw. */
  readonly always?: boolean;
  readonly si?: boolean;
}

export class Progress {
  readonly #options: ProgressOptions;
  readonly #startedMs = performance.now();
  readonly #isTerminal = process.stderr.isTTY === true;
  #drawnMs = 0;
  #doneBytes = 0;
  /** Bytes that an earlier run had done: not part of the rate. */
  #skippedBytes = 0;

  constructor(options: ProgressOptions) {
    this.#options = options;
  }

  skip(bytes: number): void {
    this.#skippedBytes += bytes;
    this.add(bytes);
  }

  add(bytes: number): void {
    this.#doneBytes += bytes;
    const nowMs = performance.now();
    if (nowMs - this.#drawnMs < REDRAW_MS) return;
    this.#drawnMs = nowMs;
    this.#draw(nowMs);
  }

  /** The last line, and the cursor below it. */
  finish(): void {
    this.#draw(performance.now());
    if (this.#isTerminal) process.stderr.write("\n");
  }

  #draw(nowMs: number): void {
    if (!this.#isTerminal && !this.#options.always) return;
    const line = this.line(nowMs - this.#startedMs);
    process.stderr.write(this.#isTerminal ? `\r\u001b[K${line}` : `${line}\n`);
  }

  line(elapsedMs: number): string {
    const { title, totalBytes, si } = this.#options;
    const style = si === undefined ? {} : { si };
    const rate = ((this.#doneBytes - this.#skippedBytes) / Math.max(1, elapsedMs)) * 1000;
    const done = formatSize(this.#doneBytes, style);
    if (totalBytes === undefined) return `${title} ${done}  ${formatSize(rate, style)}/s`;
    const share = totalBytes === 0 ? 1 : Math.min(1, this.#doneBytes / totalBytes);
    const left = rate > 0 ? formatDuration(((totalBytes - this.#doneBytes) / rate) * 1000) : "?";
    return `${title} [${renderBar(share, 1, BAR_CELLS)}] ${(share * 100).toFixed(0)} %  ${done} of ${formatSize(totalBytes, style)}  ${formatSize(rate, style)}/s  ${left} left`;
  }
}
