/**
 * A small virtual machine with Debian's kernel, built once and booted in seconds: for what only a real kernel can show.
 * Two kinds. `uml` is User Mode Linux, Debian's kernel built as a program: what runs in the guest runs at the host's own
 * speed, without a hypervisor. `qemu` is Debian's stock kernel, by KVM where that works, else emulated, ten times slower.
 *
 * The guest runs one script as root, and its exit status is the end's. A file `reset` in its /run/vm cuts its power at
 * that moment. What a guest has in the host's disk images and shared folder stays; all else is gone with it.
 */
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

export const MACHINE_KINDS = ["uml", "qemu"] as const;
export type MachineKind = (typeof MACHINE_KINDS)[number];

const SETUP_MS_MAX = 15 * 60_000;
const LOOK_AGAIN_MS = 50;
const MEMORY_MIB_DEFAULT = 1024;
const IMAGES: Readonly<Record<MachineKind, readonly string[]>> = {
  uml: ["linux", "root.img"],
  qemu: ["vmlinux", "boot.cpio", "root.img"],
};

export interface BootOptions {
  /** Run by bash, as root, in the guest. */
  readonly script: string;
  /** A host folder, read-write at /mnt in the guest. */
  readonly share: string;
  /** A host folder for what the boot needs until its end. */
  readonly scratch: string;
  /** Raw images: the second disk of the guest and further ones. */
  readonly disks?: readonly string[];
  readonly memoryMebibytes?: number;
  readonly timeMsMax: number;
  /** More of the kernel's command line. */
  readonly kernelArguments?: string;
  /** What the guest writes on its console; the host's own standard output by default. */
  readonly onConsole?: (text: string) => void;
}

/** How a boot ended: by the script's exit status, by the reset that it asked for, without either, or not in time. */
export type BootEnd = number | "reset" | "crashed" | "timed-out";

export class Machine {
  private constructor(
    readonly kind: MachineKind,
    /** Where it was built. */
    readonly folder: string,
  ) {}

  /** Why this host cannot build or run machines of the kind; undefined when nothing is known to be in the way. */
  static obstacle(kind: MachineKind): string | undefined {
    if (process.platform !== "linux" || process.arch !== "x64") return "it needs Linux on x86-64";
    if (process.getuid?.() !== 0) return "it needs root";
    if (Bun.which("apt-get") === null) return "it is built of Debian packages, and there is no apt-get";
    if (kind === "qemu" && Bun.which("qemu-system-x86_64") === null)
      return "qemu-system-x86_64 is not installed (apt-get install qemu-system-x86)";
    return undefined;
  }

  /**
   * Builds it once (half a minute, 100 MB of packages; nothing is installed) in TORUS_VM_DIR, by default
   * ~/.cache/torus-vm. Throws what setup.sh said when it cannot.
   */
  static build(kind: MachineKind): Machine {
    const folder = join(process.env.TORUS_VM_DIR ?? join(homedir(), ".cache/torus-vm"), kind);
    const program = join(import.meta.dir, "setup.sh");
    const made = join(folder, "made-by");
    const recipe = Bun.hash(readFileSync(program)).toString(16);
    const isThere = IMAGES[kind].every((name) => existsSync(join(folder, name)));
    if (isThere && existsSync(made) && readFileSync(made, "utf8") === recipe)
      return new Machine(kind, folder);
    mkdirSync(folder, { recursive: true });
    const setup = Bun.spawnSync([program, kind], {
      env: { ...process.env, TORUS_VM_DIR: folder },
      stdout: "pipe",
      stderr: "pipe",
      timeout: SETUP_MS_MAX,
    });
    if (setup.exitCode !== 0)
      throw new Error(`Cannot build the machine: setup.sh ended with ${setup.exitCode}: ${setup.stderr}`);
    writeFileSync(made, recipe);
    return new Machine(kind, folder);
  }

  /** Boots, runs the script, ends. */
  async boot(options: BootOptions): Promise<BootEnd> {
    const work = mkdtempSync(join(options.scratch, "boot-"));
    try {
      writeFileSync(join(work, "script"), options.script);
      return await this.#run(work, options);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }

  async #run(work: string, options: BootOptions): Promise<BootEnd> {
    const command = this.kind === "uml" ? this.#uml(work, options) : this.#qemu(work, options);
    const memoryBytes = (options.memoryMebibytes ?? MEMORY_MIB_DEFAULT) * 2 ** 20;
    // The machine is several processes: they end together, and with this one, as all of a process namespace does.
    const alone = ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--kill-child", "--fork", "--"];
    const child = Bun.spawn([...alone, ...command], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "inherit",
      // User Mode Linux keeps its memory in a file: in /dev/shm, if that is large enough.
      env: sharedMemoryBytes() > memoryBytes ? process.env : { ...process.env, TMPDIR: work },
    });
    const console = this.#copyConsole(child.stdout, options.onConsole);
    const deadlineMs = performance.now() + options.timeMsMax;
    let cut: BootEnd | undefined;
    while (child.exitCode === null && child.signalCode === null) {
      if (existsSync(join(work, "reset"))) cut = "reset";
      else if (performance.now() > deadlineMs) cut = "timed-out";
      if (cut !== undefined) child.kill("SIGKILL");
      await Promise.race([child.exited, Bun.sleep(LOOK_AGAIN_MS)]);
    }
    await console;
    if (cut !== undefined) return cut;
    const status = join(work, "status");
    return existsSync(status) ? Number(readFileSync(status, "utf8")) : "crashed";
  }

  async #copyConsole(
    stream: ReadableStream<Uint8Array>,
    onConsole: (text: string) => void = (text) => process.stdout.write(text),
  ): Promise<void> {
    const decoder = new TextDecoder();
    for await (const bytes of stream) onConsole(decoder.decode(bytes, { stream: true }));
  }

  #uml(work: string, options: BootOptions): string[] {
    const { share, disks = [], memoryMebibytes = MEMORY_MIB_DEFAULT, kernelArguments = "" } = options;
    return [
      join(this.folder, "linux"),
      ...[
        `mem=${memoryMebibytes}M`,
        "quiet",
        "loglevel=3",
        `uml_dir=${work}`,
        "umid=vm",
        "con=null",
        "con0=null,fd:1",
      ],
      // What the guest writes to its root goes into a file of its own.
      `ubd0=${join(work, "root.cow")},${join(this.folder, "root.img")}`,
      ...disks.map((path, index) => `ubd${index + 1}=${path}`),
      ...["root=/dev/ubda", "rw", "init=/vm-init", `vmwork=${work}`, `vmshare=${share}`],
      ...kernelArguments.split(" ").filter((word) => word !== ""),
    ];
  }

  #qemu(work: string, options: BootOptions): string[] {
    const { share, disks = [], memoryMebibytes = MEMORY_MIB_DEFAULT, kernelArguments = "" } = options;
    const folder = (tag: string, path: string) => [
      ...["-fsdev", `local,id=${tag},path=${path},security_model=none`],
      ...["-device", `virtio-9p-pci,fsdev=${tag},mount_tag=${tag}`],
    ];
    return [
      ...["qemu-system-x86_64", "-M", "pc", "-accel", accelerator(), "-cpu", "max", "-smp", "1"],
      ...[
        "-m",
        String(memoryMebibytes),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-vga",
        "none",
      ],
      ...["-no-reboot", "-serial", "stdio", "-kernel", join(this.folder, "vmlinux")],
      ...["-initrd", join(this.folder, "boot.cpio"), "-append"],
      `console=ttyS0 panic=-1 quiet mitigations=off apparmor=0 audit=0 net.ifnames=0 cryptomgr.notests ${kernelArguments}`,
      ...["-drive", `if=virtio,format=raw,snapshot=on,file=${join(this.folder, "root.img")}`],
      ...disks.flatMap((path) => ["-drive", `if=virtio,format=raw,cache=none,file=${path}`]),
      ...[...folder("work", work), ...folder("share", share)],
    ];
  }
}

function sharedMemoryBytes(): number {
  if (!existsSync("/dev/shm")) return 0;
  const { bavail, bsize } = statfsSync("/dev/shm");
  return bavail * bsize;
}

/** KVM by the processor's own means; what else calls itself /dev/kvm need not run a stock kernel. */
function accelerator(): "kvm" | "tcg" {
  if (!/\b(vmx|svm)\b/.test(readFileSync("/proc/cpuinfo", "utf8"))) return "tcg";
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK);
    return "kvm";
  } catch {
    return "tcg";
  }
}
