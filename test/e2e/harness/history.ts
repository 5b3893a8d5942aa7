/**
 * What one volume must hold, over any number of crashes: its stamps so far, the writer that goes on with them, and
 * the check of every page after each crash.
 */
import type { Scene } from "./scene";
import { startStampWriter, type StampWriter, verifyStamps } from "./stamps";

export class History {
  /** The newest write that a flush has acknowledged. */
  private acknowledged = 0;
  /** The newest write that the volume held when it was last looked at. */
  private lastWrite = 0;
  private writer: StampWriter | undefined;

  constructor(
    private readonly scene: Scene,
    readonly volume: string,
    private readonly pageCount: number,
  ) {}

  /** Whether somebody writes: a writer ends by itself only when a request failed. */
  get writing(): boolean {
    return this.writer?.process.running ?? false;
  }

  get writeCount(): number {
    return this.lastWrite;
  }

  /** The newest write that a flush of this or an earlier writer has acknowledged. */
  get acknowledgedWrite(): number {
    return Math.max(this.acknowledged, this.writer?.acknowledged() ?? 0);
  }

  /** The longest time between two flushes of this writer. */
  get stallMsMax(): number {
    return this.writer?.stallMsMax() ?? 0;
  }

  output(): string {
    return this.writer?.process.output() ?? "";
  }

  /** Writes on from where the volume was when it was last verified; reads in between by default. */
  async write(uri: string, options: { readonly reads?: boolean } = {}): Promise<void> {
    this.writer = await startStampWriter(this.scene, uri, {
      firstWrite: this.lastWrite + 1,
      pageCount: this.pageCount,
      reads: options.reads ?? true,
      name: `writer-${this.volume}`,
    });
  }

  /** Waits until so many more writes are acknowledged; throws when a request fails. */
  async advance(writeCount: number): Promise<void> {
    await this.writer?.reach(this.acknowledgedWrite + writeCount);
  }

  /** Ends the writer, if it still runs, and checks what it has read. */
  async halt(): Promise<void> {
    await this.writer?.process.kill();
    this.writer?.checkReads();
    this.acknowledged = this.acknowledgedWrite;
    this.writer = undefined;
  }

  /** Checks every page of the volume, which nobody writes to now. */
  async verify(uri: string): Promise<void> {
    this.lastWrite = await verifyStamps(this.scene, uri, {
      pageCount: this.pageCount,
      acknowledged: this.acknowledged,
    });
  }
}
