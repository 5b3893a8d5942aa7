/**
 * The executable under test: TORUS_BINARY when given, else dist/torus, built anew when any source is younger.
 */
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { run } from "./process";

const repository = join(import.meta.dir, "../../..");
let built: Promise<string> | undefined;

function isCurrent(binary: string): boolean {
  if (!existsSync(binary)) return false;
  const builtMs = statSync(binary).mtimeMs;
  const sources = [...new Bun.Glob("{src,scripts}/**/*.ts").scanSync({ cwd: repository, absolute: true })];
  return [...sources, join(repository, "bun.lock")].every((file) => statSync(file).mtimeMs < builtMs);
}

async function provide(): Promise<string> {
  const given = process.env.TORUS_BINARY;
  if (given !== undefined) return given;
  const binary = join(repository, "dist/torus");
  if (!isCurrent(binary))
    await run([process.execPath, join(repository, "scripts/build.ts")], {
      cwd: repository,
      timeMsMax: 120_000,
    });
  return binary;
}

/** Path of the executable; builds it at most once a run. */
export function torusBinary(): Promise<string> {
  built ??= provide();
  return built;
}
