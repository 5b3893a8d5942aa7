/**
 * What this executable is: version and commit, which scripts/build.ts bakes in as constants. Run from the source
 * tree they come from package.json and the word "source".
 */
import packageJson from "../../../package.json" with { type: "json" };

declare const TORUS_VERSION: string | undefined;
declare const TORUS_COMMIT: string | undefined;

export interface BuildInfo {
  readonly version: string;
  /** Full git hash, with "-dirty" behind it when the tree had changes; "source" when not built. */
  readonly commit: string;
  /** For example `linux-x64`. */
  readonly platform: string;
  readonly runtime: string;
}

export const buildInfo: BuildInfo = {
  version: typeof TORUS_VERSION === "string" ? TORUS_VERSION : packageJson.version,
  commit: typeof TORUS_COMMIT === "string" ? TORUS_COMMIT : "source",
  platform: `${process.platform}-${process.arch}`,
  runtime: `bun ${Bun.version}`,
};

/** Whether this is the compiled executable rather than the source tree. */
export const isCompiled = Bun.main.startsWith("/$bunfs/");
