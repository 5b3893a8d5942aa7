/**
 * Makes the TypeScript of the protobuf schemas: every .proto of a room's `proto` folder goes through buf and
 * protoc-gen-es into the `gen` folder beside it, which is committed. With `--check` nothing is written: the result is made in a
 * temporary folder and compared byte by byte, so that a schema changed without its code, a hand-edited or a
 * left-over generated file fails `bun run ok`.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";

const root = join(import.meta.dir, "..");
/** Folders that hold `proto` and `gen`. */
const homes = ["src/net", "src/blockdev/csi"];
const BUF_TIME_MS_MAX = 120_000;

function list(folder: string, pattern: string): string[] {
  if (!existsSync(folder)) return [];
  return [...new Bun.Glob(pattern).scanSync({ cwd: folder })].sort();
}

function generate(home: string, outputFolder: string): void {
  const protoFolder = join(root, home, "proto");
  const bin = join(root, "node_modules/.bin");
  const template = JSON.stringify({
    version: "v2",
    clean: true,
    plugins: [
      {
        local: [process.execPath, "--bun", join(bin, "protoc-gen-es")],
        out: outputFolder,
        opt: ["target=ts", "import_extension=none"],
      },
    ],
  });
  const run = Bun.spawnSync(
    [process.execPath, "--bun", join(bin, "buf"), "generate", "--template", template, protoFolder],
    {
      cwd: root,
      env: { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH ?? ""}` },
      stdout: "inherit",
      stderr: "inherit",
      timeout: BUF_TIME_MS_MAX,
    },
  );
  if (run.exitCode !== 0)
    throw new Error(`Cannot generate from ${protoFolder}: buf ended with ${run.exitCode}`);
}

/** Names of files that differ between what the schemas give now and what is committed. */
function differences(home: string, freshFolder: string): string[] {
  const generatedFolder = join(root, home, "gen");
  const names = new Set([...list(freshFolder, "**/*"), ...list(generatedFolder, "**/*")]);
  return [...names].sort().filter((name) => {
    const fresh = join(freshFolder, name);
    const committed = join(generatedFolder, name);
    if (!existsSync(fresh) || !existsSync(committed)) return true;
    return !readFileSync(fresh).equals(readFileSync(committed));
  });
}

let staleCount = 0;
for (const home of homes) {
  const schemas = list(join(root, home, "proto"), "**/*.proto");
  if (schemas.length === 0) {
    console.error(`generate: no .proto file under ${home}/proto`);
    process.exit(1);
  }
  if (!process.argv.includes("--check")) {
    generate(home, join(root, home, "gen"));
    console.log(`generate: ${schemas.length} schemas into ${home}/gen`);
    continue;
  }
  const freshFolder = mkdtempSync(join(tmpdir(), "torus-generate-"));
  try {
    generate(home, freshFolder);
    const stale = differences(home, freshFolder);
    for (const name of stale)
      console.error(`${home}/gen/${name}: not what the schemas give; run bun run generate`);
    console.log(`generate: ${schemas.length} schemas of ${home} compared, ${stale.length} stale files`);
    staleCount += stale.length;
  } finally {
    rmSync(freshFolder, { recursive: true, force: true });
  }
}
process.exitCode = staleCount === 0 ? 0 : 1;
