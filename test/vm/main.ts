/**
 * Runs the tests that need a real kernel's block clients, in a small virtual machine with Debian's stock kernel:
 * `bun test/vm/main.ts [NAME...]`, where NAME is a script of test/vm/guest without its ending. The machine is built
 * once (150 MB of packages, nothing is installed on the host) into TORUS_VM_DIR, by default ~/.cache/torus-vm. Software
 * emulation does: it boots in 7 to 20 s and is about correctness, never speed. Needs root, qemu-system-x86_64 and apt.
 */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";

const here = import.meta.dir;
const folder = process.env.TORUS_VM_DIR ?? join(homedir(), ".cache/torus-vm");
const SETUP_MS_MAX = 15 * 60_000;
const SCRIPT_S_MAX = 1500;
/** What run.sh ends with when the guest ended without saying a status. */
const ENDED_BY_RESET = 125;
const IMAGES = ["vmlinux", "boot.cpio", "root.img"];

function fail(message: string): never {
  console.error(`vm: ${message}`);
  process.exit(1);
}

function setUp(): void {
  if (IMAGES.every((name) => existsSync(join(folder, name)))) return;
  mkdirSync(folder, { recursive: true });
  console.log(`vm: building the machine in ${folder}`);
  const setup = Bun.spawnSync([join(here, "machine/setup.sh")], {
    env: { ...process.env, TORUS_VM_DIR: folder },
    stdout: "inherit",
    stderr: "inherit",
    timeout: SETUP_MS_MAX,
  });
  if (setup.exitCode !== 0) fail(`setup.sh ended with ${setup.exitCode}`);
}

/** Compiles the guest's program into the folder that is shared with it. */
function compile(share: string): void {
  const files = ["nbd-attach.ts", "nbd-ioctl-worker.ts"].map((name) => join(here, "programs", name));
  const outfile = join(share, "nbd-attach");
  const build = Bun.spawnSync([
    process.execPath,
    "build",
    "--compile",
    "--minify",
    ...files,
    "--outfile",
    outfile,
  ]);
  if (build.exitCode !== 0) fail(`cannot compile the guest's program: ${build.stderr}`);
}

/** A test is one script NAME.sh, or several boots NAME.1.sh, NAME.2.sh ... with one disk, of which all but the last end by a reset. */
function bootsOf(name: string): string[] {
  return [...new Bun.Glob("*.sh").scanSync({ cwd: join(here, "guest") })]
    .filter((file) => file === `${name}.sh` || /^\.\d+\.sh$/.test(file.slice(name.length)))
    .filter((file) => file.startsWith(name))
    .sort();
}

/** `# disk: 6G` in a script's first line asks for a second disk. */
function makeDisk(script: string, scratch: string): string[] {
  const size = /^# disk: (\d+)G$/m.exec(script)?.[1];
  const disk = join(scratch, "disk.img");
  if (size !== undefined) {
    rmSync(disk, { force: true });
    writeFileSync(disk, "");
    truncateSync(disk, Number(size) * 2 ** 30);
  }
  return existsSync(disk) ? ["-d", disk] : [];
}

async function boot(file: string, share: string, scratch: string): Promise<number> {
  const script = join(scratch, file);
  const parts = ["library.sh", file].map((part) => readFileSync(join(here, "guest", part), "utf8"));
  writeFileSync(script, parts.join("\n"));
  const options = ["-t", String(SCRIPT_S_MAX), "-s", share, ...makeDisk(parts[1] ?? "", scratch)];
  const run = Bun.spawn([join(here, "machine/run.sh"), ...options, script], {
    env: { ...process.env, TORUS_VM_DIR: folder },
    stdout: "inherit",
    stderr: "inherit",
  });
  return run.exited;
}

async function runGuest(name: string, share: string, scratch: string): Promise<boolean> {
  const startMs = performance.now();
  const boots = bootsOf(name);
  let passed = true;
  for (const [index, file] of boots.entries()) {
    const status = await boot(file, share, scratch);
    const expected = index === boots.length - 1 ? 0 : ENDED_BY_RESET;
    if (status === expected) continue;
    console.log(`vm: ${file} ended with ${status}, not ${expected}`);
    passed = false;
    break;
  }
  const seconds = ((performance.now() - startMs) / 1000).toFixed(0);
  console.log(`vm: ${name} ${passed ? "passed" : "failed"} after ${seconds} s`);
  rmSync(join(scratch, "disk.img"), { force: true });
  return passed;
}

if (Bun.which("qemu-system-x86_64") === null)
  fail("qemu-system-x86_64 is not installed (apt-get install qemu-system-x86)");
const known = [...new Bun.Glob("*.sh").scanSync({ cwd: join(here, "guest") })]
  .map((file) => file.replace(/(\.\d+)?\.sh$/, ""))
  .filter((name, index, all) => name !== "library" && all.indexOf(name) === index)
  .sort();
const asked = process.argv.slice(2);
const unknown = asked.filter((name) => !known.includes(name));
if (unknown.length > 0) fail(`there is no script ${unknown.join(", ")}; there are ${known.join(", ")}`);
setUp();
const scratch = mkdtempSync(join(tmpdir(), "torus-vm-"));
const share = join(scratch, "share");
let failures = 0;
try {
  mkdirSync(share);
  compile(share);
  const executable = process.env.TORUS_EXECUTABLE ?? join(here, "../../dist/torus");
  if (!existsSync(executable)) fail(`there is no ${executable}: bun run build`);
  copyFileSync(executable, join(share, "torus"));
  for (const name of asked.length > 0 ? asked : known)
    if (!(await runGuest(name, share, scratch))) failures++;
} finally {
  rmSync(scratch, { recursive: true });
}
process.exit(failures === 0 ? 0 : 1);
