/**
 * Makes the one executable: src/main.ts with every worker of src/commands/workers as a further entry point, the
 * runtime, version and git commit baked in. The result depends on no file of this machine; two things would break
 * that and are handled here: etcd3 reads its .proto by an absolute path at import, so the parsed schema is put in
 * place of that call; and Bun downloads the runtime of another platform, so it is taken from its npm package,
 * through whatever registry npm is configured for.
 *
 *   bun scripts/build.ts [--target linux-x64|linux-arm64] [--outfile FILE]
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import type { BunPlugin } from "bun";
import packageJson from "../package.json" with { type: "json" };

const root = join(import.meta.dir, "..");
const NPM_TIME_MS_MAX = 300_000;

/** Runtime packages on npm by target. The baseline build runs on processors without AVX2 too. */
const RUNTIME_PACKAGES = {
  "linux-x64": "@oven/bun-linux-x64-baseline",
  "linux-arm64": "@oven/bun-linux-aarch64",
} as const;
type Target = keyof typeof RUNTIME_PACKAGES;

function isTarget(name: string): name is Target {
  return Object.hasOwn(RUNTIME_PACKAGES, name);
}

function fail(message: string): never {
  console.error(`build: ${message}`);
  process.exit(1);
}

function run(command: readonly string[], cwd: string, timeMsMax: number): string {
  const result = Bun.spawnSync([...command], { cwd, timeout: timeMsMax, stderr: "pipe" });
  if (result.exitCode !== 0)
    fail(`\`${command.join(" ")}\` ended with ${result.exitCode}: ${result.stderr.toString().trim()}`);
  return result.stdout.toString().trim();
}

/** "unknown" for a source tree that is no clone. */
function gitCommit(): string {
  if (!existsSync(join(root, ".git"))) return "unknown";
  const commit = run(["git", "rev-parse", "HEAD"], root, 10_000);
  const changes = run(["git", "status", "--porcelain", "--untracked-files=no"], root, 10_000);
  return changes === "" ? commit : `${commit}-dirty`;
}

const LOAD_CALL = /\(0, proto_loader_1\.loadSync\)\(`\$\{__dirname\}\/\.\.\/proto\/rpc\.proto`, /;

/** Replaces etcd3's reading of rpc.proto by the parsed schema; throws where the text is not as expected. */
export function embedEtcdSchema(source: string, schemaJson: string): string {
  const found = source.match(LOAD_CALL);
  if (!found || source.split("rpc.proto").length !== 2)
    throw new Error("etcd3 does not load its schema the way this build knows; adapt embedEtcdSchema");
  return source.replace(LOAD_CALL, () => `(0, proto_loader_1.fromJSON)(${schemaJson}, `);
}

function etcdSchemaJson(): string {
  const etcdFolder = dirname(Bun.resolveSync("etcd3/package.json", root));
  const loaderFolder = dirname(Bun.resolveSync("@grpc/proto-loader/package.json", etcdFolder));
  const protobuf = require(Bun.resolveSync("protobufjs", loaderFolder));
  const schema = new protobuf.Root();
  schema.loadSync(join(etcdFolder, "proto/rpc.proto"), { keepCase: true });
  schema.resolveAll();
  return JSON.stringify(schema.toJSON());
}

function etcdPlugin(): { plugin: BunPlugin; wasApplied: () => boolean } {
  let applied = false;
  const plugin: BunPlugin = {
    name: "etcd3-schema",
    setup(build) {
      build.onLoad({ filter: /etcd3\/lib\/connection-pool\.js$/ }, ({ path }) => {
        applied = true;
        return { contents: embedEtcdSchema(readFileSync(path, "utf8"), etcdSchemaJson()), loader: "js" };
      });
    },
  };
  return { plugin, wasApplied: () => applied };
}

/** The runtime to build on: this one when it fits, else the npm package's, kept under node_modules/.cache. */
function runtimeFor(target: Target): string | undefined {
  if (target === `${process.platform}-${process.arch}`) return undefined;
  const packageName = RUNTIME_PACKAGES[target];
  const cached = join(root, "node_modules/.cache", `bun-${target}-${Bun.version}`, "package/bin/bun");
  if (existsSync(cached)) return cached;
  const scratch = mkdtempSync(join(tmpdir(), "torus-runtime-"));
  try {
    const archive = run(
      ["npm", "pack", "--silent", `${packageName}@${Bun.version}`],
      scratch,
      NPM_TIME_MS_MAX,
    );
    const folder = dirname(dirname(dirname(cached)));
    mkdirSync(folder, { recursive: true });
    run(["tar", "-xzf", join(scratch, basename(archive)), "-C", folder, "package/bin/bun"], scratch, 60_000);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  return cached;
}

async function build(target: Target, outfile: string): Promise<void> {
  const workers = [...new Bun.Glob("src/commands/workers/*.ts").scanSync({ cwd: root })].sort();
  const etcd = etcdPlugin();
  const executablePath = runtimeFor(target);
  mkdirSync(dirname(outfile), { recursive: true });
  const result = await Bun.build({
    entrypoints: ["src/main.ts", ...workers].map((file) => join(root, file)),
    root: join(root, "src"),
    target: "bun",
    // Parsed ahead of time: a command starts in a third of the time. Only for the platform that builds.
    format: "esm",
    bytecode: target === `${process.platform}-${process.arch}`,
    // Identifiers stay, so that the stack of a --debug report names functions and error classes.
    minify: { whitespace: true, syntax: true, identifiers: false },
    define: {
      TORUS_VERSION: JSON.stringify(packageJson.version),
      TORUS_COMMIT: JSON.stringify(gitCommit()),
    },
    plugins: [etcd.plugin],
    // A service must not take settings from files that happen to lie in the folder it is started in.
    compile: {
      target: `bun-${target}`,
      outfile,
      autoloadDotenv: false,
      autoloadBunfig: false,
      ...(executablePath === undefined ? {} : { executablePath }),
    },
  });
  if (!result.success) fail(result.logs.map(String).join("\n"));
  const bundle = readFileSync(outfile);
  if (!etcd.wasApplied() && bundle.includes("etcdserverpb"))
    fail("etcd3 is in the executable, but its schema was not embedded");
  const megabytes = (bundle.byteLength / 1e6).toFixed(0);
  console.log(`build: ${outfile} (${target}, ${workers.length} workers, ${megabytes} MB)`);
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { target: { type: "string" }, outfile: { type: "string" } },
    strict: true,
  });
  const native = `${process.platform}-${process.arch}`;
  const target = values.target ?? native;
  if (!isTarget(target))
    fail(`cannot build for ${target}; --target is one of ${Object.keys(RUNTIME_PACKAGES).join(", ")}`);
  const name = target === native ? "torus" : `torus-${target}`;
  await build(target, resolve(values.outfile ?? join(root, "dist", name)));
}
