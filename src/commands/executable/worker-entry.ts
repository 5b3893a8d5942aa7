/**
 * Where a worker's code lies. In the source tree it is a file of src/commands/workers; in the executable,
 * where import.meta.url is the same for all code, scripts/build.ts has put every such file under the same
 * relative name in the embedded file system.
 */
import { isCompiled } from "./build-info";

const EMBEDDED_ROOT = "file:///$bunfs/root/";

/** The URL for `new Worker(...)` of src/commands/workers/`name`.ts. */
export function workerEntry(name: string): string {
  if (isCompiled) return new URL(`./commands/workers/${name}.ts`, EMBEDDED_ROOT).href;
  return new URL(`../workers/${name}.ts`, import.meta.url).href;
}
