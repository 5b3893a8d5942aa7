/**
 * The NBD server against the clients people have: libnbd's nbdinfo, nbdcopy and nbdsh, QEMU's qemu-img and qemu-io,
 * fio with verification, nbd-client. The server is a process of its own on the raw event loop; it is ended by its
 * pid. A client that is not installed skips its test by name.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const MIB = 1024 * 1024;
const TIMEOUT_MS = 60_000;
/** Debian's own programs first: nbdsh is a module of the system's Python. */
const env = { ...process.env, PATH: `/usr/bin:/usr/sbin:/bin:${process.env.PATH ?? ""}` };

let folder: string;
let server: ReturnType<typeof Bun.spawn>;
let tcp: string;
let unix: string;

async function run(command: readonly string[]): Promise<string> {
  const child = Bun.spawn([...command], { env, stdout: "pipe", stderr: "pipe", timeout: TIMEOUT_MS });
  const [output, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  if ((await child.exited) !== 0) throw new Error(`${command.join(" ")} failed: ${errors}${output}`);
  return output;
}

function testWith(program: string, name: string, body: () => Promise<void>): void {
  const installed = Bun.which(program, { PATH: env.PATH }) !== null;
  test.skipIf(!installed)(`${program} ${name}`, body, TIMEOUT_MS);
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "torus-nbd-"));
  const program = join(import.meta.dir, "../support/nbd-memory-server.ts");
  const child = Bun.spawn([process.execPath, program, "512MiB", "127.0.0.1:0", `unix:${folder}/socket`], {
    stdout: "pipe",
    stderr: "inherit",
  });
  server = child;
  let text = "";
  const reader = child.stdout.getReader();
  while (text.split("\n").length < 3) {
    const { value, done } = await reader.read();
    if (done) throw new Error(`the server ended: ${text}`);
    text += new TextDecoder().decode(value);
  }
  tcp = `nbd://${text.split("\n")[0]}/memory`;
  unix = `nbd+unix:///memory?socket=${folder}/socket`;
});

afterAll(async () => {
  server.kill("SIGTERM");
  expect(await server.exited).toBe(0);
  rmSync(folder, { recursive: true });
});

async function randomFile(name: string, sizeBytes: number): Promise<string> {
  const path = join(folder, name);
  const file = Bun.file(path).writer();
  for (let written = 0; written < sizeBytes; written += MIB) {
    await file.write(crypto.getRandomValues(new Uint8Array(65_536)));
    await file.write(new Uint8Array(MIB - 65_536).fill(written / MIB));
  }
  await file.end();
  return path;
}

async function digest(path: string): Promise<string> {
  const hash = new Bun.CryptoHasher("sha256");
  for await (const chunk of Bun.file(path).stream()) hash.update(chunk);
  return hash.digest("hex");
}

describe("NbdServer with real clients", () => {
  testWith("nbdinfo", "sees the export and what it can do", async () => {
    const info = JSON.parse(await run(["nbdinfo", "--json", tcp]));
    expect(info.protocol).toBe("newstyle-fixed");
    expect(info.structured).toBe(true);
    expect(info.exports[0]).toMatchObject({
      "export-name": "memory",
      description: "a volume in memory",
      "export-size": 512 * MIB,
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MIB,
      contexts: ["base:allocation"],
    });
    const listed = JSON.parse(await run(["nbdinfo", "--json", "--list", unix.replace("/memory", "/")]));
    expect(listed.exports.map((each: { "export-name": string }) => each["export-name"])).toEqual(["memory"]);
  });

  testWith("nbdcopy", "copies random bytes in and out over four connections", async () => {
    const source = await randomFile("source", 64 * MIB);
    for (const uri of [tcp, unix]) {
      await run(["nbdcopy", "--connections=4", "--flush", source, uri]);
      const back = join(folder, "back");
      await run(["nbdcopy", "--connections=4", uri, back]);
      await run(["truncate", "-s", String(64 * MIB), back]);
      expect(await digest(back)).toBe(await digest(source));
    }
  });

  testWith("qemu-img", "converts, compares and maps", async () => {
    const image = join(folder, "image.qcow2");
    const source = await randomFile("disk", 16 * MIB);
    await run(["truncate", "-s", String(512 * MIB), source]);
    await run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, image]);
    await run(["qemu-img", "convert", "-n", "-W", "-f", "qcow2", "-O", "raw", image, tcp]);
    await run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, tcp]);
    const map = JSON.parse(await run(["qemu-img", "map", "--output=json", "-f", "raw", unix]));
    expect(map.at(-1)).toMatchObject({ zero: true });
  });

  testWith("qemu-io", "reads patterns across page edges, after zeroes and discards", async () => {
    const script = [
      "write -P 0x11 0 1m",
      "write -P 0x22 4000 200",
      "write -f -P 0x33 65535 513",
      "write -z 8k 4k",
      "write -z -u 12k 4k",
      "discard 16k 8k",
      "flush",
      "read -P 0x11 0 4000",
      "read -P 0x22 4000 200",
      "read -P 0x11 4200 3992",
      "read -P 0 8k 16k",
      "read -P 0x11 24k 40900",
      "read -P 0x33 65535 513",
      "write -P 0x44 64m 32m",
      "read -P 0x44 64m 32m",
    ];
    const output = await run(["qemu-io", "-f", "raw", ...script.flatMap((line) => ["-c", line]), tcp]);
    expect(output).not.toContain("verification failed");
    expect(output.match(/^(read|wrote) /gm)?.length).toBe(13);
  });

  testWith("fio", "verifies random and sequential writes", async () => {
    for (const [mode, size] of [
      ["randwrite", "4k"],
      ["write", "1m"],
    ]) {
      const options = [
        `--rw=${mode}`,
        `--bs=${size}`,
        "--iodepth=16",
        "--size=48m",
        "--verify=crc32c",
        "--do_verify=1",
      ];
      await run([
        "fio",
        "--name=verify",
        "--thread",
        "--ioengine=nbd",
        `--uri=${unix}`,
        ...options,
        `--aux-path=${folder}`,
      ]);
    }
  });

  testWith("nbdsh", "meets every command and its errors", async () => {
    const script = `
import errno
h.pwrite(b"x" * 700, 300, nbd.CMD_FLAG_FUA)
assert h.pread(3, 299) == b"\\0xx", h.pread(3, 299)
h.zero(500, 300, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
assert h.pread(2, 799) == b"\\0x"
h.trim(4096, 0)
h.cache(100000, 0)
h.flush()
def fails(expected, call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as error:
        assert error.errnum == expected, error
    else:
        assert False, "no error"
h.set_strict_mode(0)
size = h.get_size()
fails(errno.EINVAL, h.pread, 10, size - 1)
fails(errno.ENOSPC, h.pwrite, b"12", size - 1)
fails(errno.ENOSPC, h.zero, 2, size - 1)
fails(errno.EINVAL, h.trim, 2, size - 1)
extents = []
h.pwrite(b"y" * 4096, 8192)
h.block_status(65536, 0, lambda context, offset, entries, error: extents.extend(entries))
assert extents == [8192, 3, 4096, 0, 53248, 3], extents
buffer = h.pread_structured(3 * 1024 * 1024, 0, lambda *arguments: 0, nbd.CMD_FLAG_DF)
assert len(buffer) == 3 * 1024 * 1024
h.shutdown()
print("done")
`;
    for (const uri of [tcp, unix])
      expect(
        await run([
          "nbdsh",
          "--base-allocation",
          "-u",
          uri,
          "-c",
          "h.trim(512 * 1024 * 1024, 0)",
          "-c",
          script,
        ]),
      ).toBe("done\n");
    // Simple replies only, as the kernel's client has them; and the oldest way to open an export.
    const simple = ["-c", "h.set_request_structured_replies(False)", "-c", "h.set_opt_mode(True)"];
    await run([
      "nbdsh",
      ...simple,
      "-c",
      `h.connect_uri("${tcp}")`,
      "-c",
      "h.opt_go()",
      "-c",
      "h.pread(4096, 0)",
    ]);
  });

  testWith("nbd-client", "lists the exports", async () => {
    const [, host, port] = /nbd:\/\/([^:]+):(\d+)/.exec(tcp) ?? [];
    expect(await run(["nbd-client", "-l", host as string, port as string])).toContain("memory");
  });
});
