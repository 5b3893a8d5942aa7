/** A small text in the data directory that is replaced whole: after a crash it is the old one or the new one. */
import { readFile, rename, writeFile } from "node:fs/promises";

export class StateFile {
  constructor(private readonly path: string) {}

  /** Undefined when there is none yet. */
  async load(): Promise<string | undefined> {
    try {
      return await readFile(this.path, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
  }

  async save(text: string): Promise<void> {
    const temporary = `${this.path}.tmp`;
    await writeFile(temporary, text, { flush: true });
    await rename(temporary, this.path);
  }
}
