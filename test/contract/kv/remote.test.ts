/** The contract over a daemon's metadata service: a process with an SQLite store, killed and restarted. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../../src/base/io";
import { RemoteStore } from "../../../src/net";
import { freePort } from "../../support/etcd";
import { keyValueContract } from "./suite";

const folder = mkdtempSync(join(tmpdir(), "torus-remote-"));
let port = 0;
let child: Bun.Subprocess<"ignore", "pipe", "inherit">;

async function start(): Promise<void> {
  const script = join(import.meta.dir, "../../support/meta-server.ts");
  child = Bun.spawn([process.execPath, script, join(folder, "meta.db"), String(port)], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "inherit",
  });
  const reader = child.stdout.getReader();
  const line = await reader.read();
  if (line.done) throw new Error("the server did not start");
  reader.releaseLock();
}

async function kill(): Promise<void> {
  child.kill("SIGKILL");
  await child.exited;
}

keyValueContract("remote", {
  isShared: true,
  start: async () => {
    port = await freePort();
    await start();
  },
  open: async () => new RemoteStore({ baseUrl: `http://127.0.0.1:${port}`, clock: systemClock }),
  compact: async () => {
    await fetch(`http://127.0.0.1:${port}/compact`, { method: "POST" });
  },
  restart: async () => {
    await kill();
    await start();
  },
  stop: async () => {
    await kill();
    rmSync(folder, { recursive: true });
  },
});
