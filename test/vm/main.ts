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
  writeFileSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";

const here = import.meta.dir;
const folder = process.env.TORUS_VM_DIR ?? join(homedir(), ".cache/torus-vm");
const SETUP_MS_MAX = 15 * 60_000;
const SCRIPT_S_MAX = 600;
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

async function runGuest(name: string, share: string, scratch: string): Promise<boolean> {
  const script = join(scratch, `${name}.sh`);
  const parts = ["library.sh", `${name}.sh`].map((part) => readFileSync(join(here, "guest", part), "utf8"));
  writeFileSync(script, parts.join("\n"));
  const startMs = performance.now();
  const run = Bun.spawn([join(here, "machine/run.sh"), "-t", String(SCRIPT_S_MAX), "-s", share, script], {
    env: { ...process.env, TORUS_VM_DIR: folder },
    stdout: "inherit",
    stderr: "inherit",
  });
  const status = await run.exited;
  const seconds = ((performance.now() - startMs) / 1000).toFixed(0);
  console.log(`vm: ${name} ${status === 0 ? "passed" : `failed (${status})`} after ${seconds} s`);
  return status === 0;
}

if (Bun.which("qemu-system-x86_64") === null)
  fail("qemu-system-x86_64 is not installed (apt-get install qemu-system-x86)");
const known = [...new Bun.Glob("*.sh").scanSync({ cwd: join(here, "guest") })]
  .map((file) => file.slice(0, -".sh".length))
  .filter((name) => name !== "library")
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
  const executable = join(here, "../../dist/torus");
  if (existsSync(executable)) copyFileSync(executable, join(share, "torus"));
  for (const name of asked.length > 0 ? asked : known)
    if (!(await runGuest(name, share, scratch))) failures++;
} finally {
  rmSync(scratch, { recursive: true });
}
process.exit(failures === 0 ? 0 : 1);
