/** Runs a piece of a program under a filter of system calls, as a service manager or a container sets one. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export const FILTER_KILLS = 0x80000000;
export const FILTER_REFUSES = 0x00050001;

export interface FilteredRun {
  /** Numbers of the calls that the filter is about. */
  readonly calls: readonly number[];
  /** What it does about them: FILTER_KILLS or FILTER_REFUSES. */
  readonly action: number;
  readonly environment: Record<string, string>;
  /** Files of `base/io` and what is imported from each. */
  readonly imports: Readonly<Record<string, string>>;
  /** Statements that run under the filter. */
  readonly body: string;
}

/** Returns "alive" where the body came to its end, and the exit code or the signal. */
export async function runUnderFilter(options: FilteredRun): Promise<string> {
  const { calls, action, environment, imports, body } = options;
  const folder = mkdtempSync(join(tmpdir(), "torus-filter-"));
  const program = join(folder, "filtered.ts");
  const lines = Object.entries(imports).map(([path, names]) => {
    const source = new URL(`../../src/base/io/${path}`, import.meta.url).href;
    return `import { ${names} } from ${JSON.stringify(source)};`;
  });
  writeFileSync(
    program,
    `import { dlopen, ptr } from "bun:ffi";
     ${lines.join("\n")}
     const { symbols } = dlopen("libc.so.6", {
       prctl: { args: ["int", "u64", "u64", "u64", "u64"], returns: "int" },
     });
     const LOAD = 0x20, JUMP_IF = 0x15, RETURN = 0x06;
     const calls = ${JSON.stringify(calls)};
     const program = [[LOAD, 0, 0, 0],
       ...calls.map((call, index) => [JUMP_IF, calls.length - index, 0, call]),
       [RETURN, 0, 0, 0x7fff0000], [RETURN, 0, 0, ${action}]];
     const filter = new DataView(new ArrayBuffer(8 * program.length));
     program.forEach(([code, yes, no, value], index) => {
       filter.setUint16(8 * index, code, true);
       filter.setUint8(8 * index + 2, yes);
       filter.setUint8(8 * index + 3, no);
       filter.setUint32(8 * index + 4, value, true);
     });
     const head = new BigUint64Array([BigInt(program.length), BigInt(ptr(filter.buffer))]);
     const NO_NEW_PRIVILEGES = 38, SET_FILTER = 22, FILTER_MODE = 2;
     const failed = symbols.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) || symbols.prctl(SET_FILTER, FILTER_MODE, ptr(head), 0, 0);
     if (failed) throw new Error("no filter");
     ${body}
     console.log("alive");`,
  );
  const run = Bun.spawn([process.execPath, program], {
    env: { ...process.env, ...environment },
    stderr: "pipe",
  });
  const text = await new Response(run.stdout).text();
  await run.exited;
  rmSync(folder, { recursive: true });
  return `${text.trim()} ${run.signalCode ?? run.exitCode}`;
}
