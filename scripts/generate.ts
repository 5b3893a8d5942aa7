/**
 * Makes the TypeScript of the protobuf schemas: every .proto under src/net/proto goes through buf and
 * protoc-gen-es into src/net/gen, which is committed. With `--check` nothing is written: the result is made in a
 * temporary folder and compared byte by byte, so that a schema changed without its code, a hand-edited or a
 * left-over generated file fails `bun run ok`.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";

const root = join(import.meta.dir, "..");
const protoFolder = join(root, "src/net/proto");
const generatedFolder = join(root, "src/net/gen");
const BUF_TIME_MS_MAX = 120_000;

function list(folder: string, pattern: string): string[] {
  if (!existsSync(folder)) return [];
  return [...new Bun.Glob(pattern).scanSync({ cwd: folder })].sort();
}

function generate(outputFolder: string): void {
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
function differences(freshFolder: string): string[] {
  const names = new Set([...list(freshFolder, "**/*"), ...list(generatedFolder, "**/*")]);
  return [...names].sort().filter((name) => {
    const fresh = join(freshFolder, name);
    const committed = join(generatedFolder, name);
    if (!existsSync(fresh) || !existsSync(committed)) return true;
    return !readFileSync(fresh).equals(readFileSync(committed));
  });
}

const schemas = list(protoFolder, "**/*.proto");
if (schemas.length === 0) {
  console.error("generate: no .proto file under src/net/proto");
  process.exit(1);
}
if (!process.argv.includes("--check")) {
  generate(generatedFolder);
  console.log(`generate: ${schemas.length} schemas into src/net/gen`);
} else {
  const freshFolder = mkdtempSync(join(tmpdir(), "torus-generate-"));
  try {
    generate(freshFolder);
    const stale = differences(freshFolder);
    for (const name of stale)
      console.error(`src/net/gen/${name}: not what the schemas give; run bun run generate`);
    console.log(`generate: ${schemas.length} schemas compared, ${stale.length} stale files`);
    process.exitCode = stale.length === 0 ? 0 : 1;
  } finally {
    rmSync(freshFolder, { recursive: true, force: true });
  }
}
