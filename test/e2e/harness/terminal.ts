/** A command on a terminal of its own, with keys to press and a screen to read: what a person at a shell has. */
import { waitFor } from "./process";
import type { Scene } from "./scene";

const COLUMNS = 140;
const ROWS = 50;

export class Terminal {
  readonly #child: Bun.Subprocess;
  #text = "";

  /** Started in the scene's folder, ended with the scene at the latest. */
  constructor(scene: Scene, command: readonly string[], env: Readonly<Record<string, string>> = {}) {
    const decoder = new TextDecoder();
    this.#child = Bun.spawn(["setpriv", "--pdeathsig", "KILL", "--", ...command], {
      cwd: scene.folder,
      env: { ...process.env, TERM: "xterm", ...env },
      terminal: {
        cols: COLUMNS,
        rows: ROWS,
        data: (_, bytes) => {
          this.#text += decoder.decode(bytes, { stream: true });
        },
      },
    });
    scene.defer(() => this.close());
  }

  /** Everything that was written so far, colours and cursor movements too. */
  raw(): string {
    return this.#text;
  }

  /** The same without escape sequences. */
  text(): string {
    return Bun.stripANSI(this.#text);
  }

  press(keys: string): void {
    this.#child.terminal?.write(keys);
  }

  /** Resolves when `wanted` is found in what was written since `from`. */
  async see(wanted: RegExp, from = 0, timeMsMax?: number): Promise<void> {
    try {
      await waitFor(
        `${wanted} on the terminal`,
        () => wanted.test(Bun.stripANSI(this.#text.slice(from))),
        timeMsMax,
      );
    } catch (error) {
      throw new Error(`the terminal shows ${JSON.stringify(this.text().slice(-2000))}`, { cause: error });
    }
  }

  /** The exit code; null when a signal ended it. */
  async ended(): Promise<number | null> {
    await this.#child.exited;
    return this.#child.signalCode === null ? this.#child.exitCode : null;
  }

  async close(): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill("SIGKILL");
    await this.#child.exited;
    this.#child.terminal?.close();
  }
}
