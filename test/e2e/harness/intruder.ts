/**
 * Requests that come too late: clients connected to a server since before it lost its volume, which ask for something
 * only when told to. Nothing they ask may be answered: not a page, for it may be old; not a flush, for what it would
 * promise is not so. An error is as good as silence, while the server is stopped or cut off.
 */
import { writeFileSync } from "node:fs";
import { type ManagedProcess, waitFor } from "./process";
import type { Scene } from "./scene";

const REQUESTS = {
  read: "h.pread(4096, 4096 * 5)",
  write: "h.pwrite(bytes([0xEE]) * 4096, 4096 * 7); h.flush()",
} as const;
type Request = keyof typeof REQUESTS;

function script(uri: string, goFile: string, request: string): string {
  return `
import nbd, os, time
h = nbd.NBD()
h.connect_uri(${JSON.stringify(uri)})
print("connected", flush=True)
while not os.path.exists(${JSON.stringify(goFile)}):
    time.sleep(0.02)
print("asking", flush=True)
try:
    ${request}
    print("ANSWERED", flush=True)
except nbd.Error as error:
    print("refused:", error.string, flush=True)
`;
}

let intruderCount = 0;

export class Intruders {
  private constructor(
    private readonly goFile: string,
    private readonly processes: readonly ManagedProcess[],
  ) {}

  /** Connects one that will read and one that will write and flush, or only the one. */
  static async connect(
    scene: Scene,
    uri: string,
    requests: readonly Request[] = ["read", "write"],
  ): Promise<Intruders> {
    const number = ++intruderCount;
    const goFile = scene.path(`intruders-${number}.go`);
    const processes = [];
    for (const name of requests) {
      const command = ["/usr/bin/python3", "-c", script(uri, goFile, REQUESTS[name])];
      processes.push(await scene.start(`intruder-${number}-${name}`, command));
    }
    for (const one of processes)
      await waitFor(`${one.name} to be connected`, () => one.output().includes("connected"));
    return new Intruders(goFile, processes);
  }

  /** All ask now; the requests have left when this returns. */
  async ask(): Promise<void> {
    writeFileSync(this.goFile, "");
    for (const one of this.processes)
      await waitFor(`${one.name} to ask`, () => one.output().includes("asking"));
  }

  /** Waits until every request was answered after all. */
  async answered(): Promise<void> {
    for (const one of this.processes)
      await waitFor(`${one.name} to be answered`, () => {
        if (one.output().includes("refused")) throw new Error(one.output());
        return one.output().includes("ANSWERED");
      });
  }

  /** Throws when anything was answered so far. */
  checkSilence(): void {
    for (const one of this.processes)
      if (one.output().includes("ANSWERED"))
        throw new Error(`${one.name} was answered by a server that must not`);
  }

  /** Waits until every request was refused. */
  async refused(timeMsMax: number): Promise<void> {
    for (const one of this.processes) {
      await waitFor(`${one.name} to be refused`, () => !one.running, timeMsMax);
      if (!/refused:/.test(one.output())) throw new Error(`${one.name} said: ${one.output()}`);
    }
    this.checkSilence();
  }

  async end(): Promise<void> {
    for (const one of this.processes) await one.kill();
  }
}
