/** The contract over a daemon's metadata service: a process with an SQLite store, killed and restarted. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../../src/base/io";
import { RemoteStore } from "../../../src/net";
import { MetaServerProcess } from "../../support/meta-server-process";
import { keyValueContract } from "./suite";

const folder = mkdtempSync(join(tmpdir(), "torus-remote-"));
const path = join(folder, "meta.db");
let server: MetaServerProcess;

keyValueContract("remote", {
  isShared: true,
  start: async () => {
    server = await MetaServerProcess.start(path);
  },
  open: async () => new RemoteStore({ baseUrl: server.url, clock: systemClock }),
  compact: async () => {
    await fetch(`${server.url}/compact`, { method: "POST" });
  },
  restart: async () => {
    await server.kill();
    server = await MetaServerProcess.start(path, Number(new URL(server.url).port));
  },
  stop: async () => {
    await server.kill();
    rmSync(folder, { recursive: true });
  },
});
