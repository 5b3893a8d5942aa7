/**
 * A daemon that stops answering with its connections open, under a stream of random reads, each of which is checked:
 * what it is asked for first is asked of the other holder soon, over either protocol between peers, so that no read
 * takes as long as the deadline of a request (2 s).
 */
import { describe, expect } from "bun:test";
import { existsSync, writeFileSync } from "node:fs";
import { Cluster, freePort, nbdsh, openScene, type PeerScheme, waitFor } from "./harness";

const SCHEMES: readonly PeerScheme[] = ["adp", "http"];
/** Some deadlines, and less than the lease of the daemon's registration. */
const HANG_MS = 6_000;
/** Asking another takes some tens of milliseconds; on a machine that is busy it takes what it takes. */
const LONGEST_READ_MS_MAX = 1_500;

/** Every page holds its number, all over. */
const PAGES = `
import json, os, random, struct, time, nbd
PAGES = 16384
def page(number): return struct.pack("<Q", number) * 512
`;
const FILL = `${PAGES}
for first in range(0, PAGES, 64):
    h.pwrite(b"".join(page(first + at) for at in range(64)), first * 4096)
h.flush()
print("filled")
`;
/** 16 reads at once, of pages chosen at random, until the file is there. */
const readUntil = (stopFile: string): string => `${PAGES}
def start():
    number, buffer = random.randrange(PAGES), nbd.Buffer(4096)
    return h.aio_pread(buffer, number * 4096), number, buffer, time.monotonic()
reads, longest, under_way = 0, 0, [start() for _ in range(16)]
while under_way:
    h.poll(-1)
    for one in list(under_way):
        cookie, number, buffer, started = one
        if not h.aio_command_completed(cookie): continue
        longest = max(longest, time.monotonic() - started)
        assert buffer.to_bytearray() == page(number), "page %d holds something else" % number
        reads += 1
        under_way.remove(one)
        if not os.path.exists("${stopFile}"): under_way.append(start())
print(json.dumps({"reads": reads, "longestMs": longest * 1000}))
`;

for (const scheme of SCHEMES)
  describe(`three daemons over ${scheme}://, one of which hangs`, () => {
    const scene = openScene(`hanging-peer-${scheme}`);

    scene.test(
      "random reads go on, each right, none as long as a deadline",
      async () => {
        const cluster = await Cluster.withEtcd(scene, {
          ...{ peerCount: 3, scheme, replication: 2, size: "1GiB" },
        });
        await cluster.createVolume("disk", "64MiB");
        const httpPort = await freePort();
        const server = await cluster.serve("blk", ["disk"], {
          flags: ["--http", `127.0.0.1:${httpPort}`, "--read-cache-size", "0"],
        });
        const uri = server.uri("disk");
        const counted = async (family: string): Promise<number> => {
          const text = await (await fetch(`http://127.0.0.1:${httpPort}/metrics`)).text();
          return Number(new RegExp(`^torus_volume_${family}_total\\{[^}]*\\} (\\d+)`, "m").exec(text)?.[1]);
        };
        const more = async (readCount: number): Promise<void> => {
          const before = await counted("reads");
          const isReached = async () => (await counted("reads")) > before + readCount;
          await waitFor(`${readCount} more reads`, isReached, 60_000);
        };
        expect(await nbdsh(scene, uri, FILL)).toContain("filled");
        const stopFile = scene.path("stop");
        const load = nbdsh(scene, uri, readUntil(stopFile));
        const hang = async (): Promise<void> => {
          await more(2_000);
          const victim = cluster.daemons[1]!;
          victim.pause();
          await more(2_000);
          await Bun.sleep(HANG_MS);
          await more(2_000);
          victim.resume();
          await more(2_000);
          writeFileSync(stopFile, "");
        };
        const endsItself = async (): Promise<void> => {
          const said = await load;
          if (!existsSync(stopFile)) throw new Error(`the reader ended too early: ${said}`);
        };
        await Promise.all([hang(), endsItself()]);
        const { reads, longestMs } = JSON.parse(await load) as { reads: number; longestMs: number };
        const [hedged, won] = [await counted("hedged_reads"), await counted("hedges_won")];
        console.log(
          `${scheme}: ${reads} reads, the longest ${longestMs.toFixed(0)} ms; ${hedged} asked of two, ${won} answered by the second`,
        );
        expect(won).toBeGreaterThan(0);
        expect(hedged).toBeGreaterThanOrEqual(won);
        expect(longestMs).toBeLessThan(LONGEST_READ_MS_MAX);
        expect(await server.stop()).toBe(0);
      },
      300_000,
    );
  });
