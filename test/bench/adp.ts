/**
 * Micro benchmark of adp alone: a client loop and peer loops, each a worker of this process, over loopback TCP;
 * the peers keep nothing, so that the wire is measured and not a store.
 *
 *   bun test/bench/adp.ts [--peers 2] [--seconds 1] [--only put-4k-d16]
 */
import { parseArgs } from "node:util";
import { startLoopWorker } from "../../src/base/io";
import type { BenchCase, BenchData, BenchResult } from "./adp-worker";

interface Remote {
  address(argument: undefined): Promise<string>;
  run(one: BenchCase): Promise<BenchResult>;
}

const { values } = parseArgs({
  options: {
    peers: { type: "string", default: "2" },
    seconds: { type: "string", default: "1" },
    only: { type: "string", default: "" },
    unix: { type: "boolean", default: false },
  },
});

function start(name: string, data: BenchData) {
  return startLoopWorker<Record<never, never>, Remote>({
    url: new URL("./adp-worker.ts", import.meta.url).href,
    name,
    data,
    methods: {},
    startTimeoutMs: 10_000,
    onFailure: (error) => {
      throw error;
    },
  });
}

const peerCount = Number(values.peers);
const durationMs = Number(values.seconds) * 1000;
const peers = await Promise.all(
  Array.from({ length: peerCount }, (_, index) =>
    start(`peer ${index}`, { role: "peer", index, address: "127.0.0.1:0" }),
  ),
);
const addresses = await Promise.all(peers.map((peer) => peer.endpoint.call("address", undefined)));
const client = await start("client", { role: "client" });

const cases: Record<string, Pick<BenchCase, "kind" | "pages" | "depth">> = {
  "put-4k-d1": { kind: "put", pages: 1, depth: 1 },
  "put-4k-d16": { kind: "put", pages: 1, depth: 16 },
  "put-64k-d16": { kind: "put", pages: 16, depth: 16 },
  "put-512k-d8": { kind: "put", pages: 128, depth: 8 },
  "read-4k-d1": { kind: "read", pages: 1, depth: 1 },
  "read-4k-d16": { kind: "read", pages: 1, depth: 16 },
  "read-64k-d16": { kind: "read", pages: 16, depth: 16 },
  "read-512k-d8": { kind: "read", pages: 128, depth: 8 },
};

console.log(`${peerCount} peers; puts go to all of them`);
for (const [name, one] of Object.entries(cases)) {
  if (values.only !== "" && name !== values.only) continue;
  const cpuBefore = process.cpuUsage();
  const result = await client.endpoint.call("run", { ...one, addresses, durationMs }, durationMs + 10_000);
  const cpu = process.cpuUsage(cpuBefore);
  const perSecond = (result.requests / result.elapsedMs) * 1000;
  const megabytes = (perSecond * one.pages * 4096) / 1e6;
  const cpuUs = ((cpu.user + cpu.system) / result.requests).toFixed(1);
  console.log(
    `${name.padEnd(13)} ${perSecond.toFixed(0).padStart(8)}/s ${megabytes.toFixed(0).padStart(6)} MB/s ` +
      `${((result.elapsedMs * 1000 * one.depth) / result.requests).toFixed(1).padStart(8)} us each; ` +
      `process CPU ${cpuUs} us; client sends ${(result.sendCalls / result.requests).toFixed(2)}, ` +
      `receives ${(result.receiveCalls / result.requests).toFixed(2)}, turns ${(result.turns / result.requests).toFixed(2)} per request`,
  );
}
await Promise.all([client, ...peers].map((worker) => worker.stop(5000)));
