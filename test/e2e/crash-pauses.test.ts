/**
 * Processes that stop and go on (SIGSTOP, SIGCONT), as a suspended machine, a debugger or a host short of processors
 * does it. A client that slept past its lease while another opened its volume wakes with requests already in its
 * sockets: it must answer none of them. One whose volume nobody wanted goes on as if nothing had been. A daemon that
 * hangs with its connections open costs a short stall, and no error.
 */
import { expect } from "bun:test";
import { Cluster, History, Intruders, type NbdServer, openScene, waitFor } from "./harness";

const PAGE_COUNT = 1024;
const WRITES = 200;
/** Past the lease of a volume (15 s). */
const PAST_LEASE_MS = 18_000;
/** Until a client that woke knows that it lost the volume. */
const REFUSED_MS_MAX = 60_000;
const DAEMON_PAUSE_MS = Number(process.env.TORUS_CRASH_PAUSE_MS ?? 12_000);

const scene = openScene("crash-pauses");
let cluster: Cluster;

async function stage(volume: string): Promise<{ history: History; server: NbdServer }> {
  cluster ??= await Cluster.withEtcd(scene, { peerCount: 3, replication: 2, size: "1GiB" });
  await cluster.createVolume(volume, `${PAGE_COUNT * 4}KiB`);
  const server = await cluster.serve(`blk-${volume}`, [volume]);
  return { history: new History(scene, volume, PAGE_COUNT), server };
}

/** The sleeper wakes after another wrote to its volume. */
async function wakesTooLate(volume: string, free: () => Promise<void>): Promise<void> {
  const { history, server } = await stage(volume);
  await history.write(server.uri(volume));
  await history.advance(WRITES);
  const intruders = await Intruders.connect(scene, server.uri(volume));
  server.pause();
  await intruders.ask();
  await free();
  const other = await cluster.serve(`other-${volume}`, [volume]);
  await history.halt();
  await history.verify(other.uri(volume));
  await history.write(other.uri(volume));
  await history.advance(WRITES);
  server.resume();
  await intruders.refused(REFUSED_MS_MAX);
  await history.advance(WRITES);
  await history.halt();
  await history.verify(other.uri(volume));
  // It says why, and whoever connects to it anew is told who has the volume now.
  expect(server.output()).toMatch(/opened or unlocked elsewhere|fenced by a newer writer/);
  expect(await other.stop()).toBe(0);
  await server.kill();
}

scene.test(
  "a client that sleeps past its lease, while another opens, writes and reads nothing more",
  () => wakesTooLate("expired", async () => {}),
  300_000,
);

scene.test(
  "a client that sleeps while its volume is taken from it by force writes and reads nothing more",
  () => wakesTooLate("forced", async () => void (await cluster.ctl("volume", "unlock", "forced", "--force"))),
  300_000,
);

scene.test(
  "a client that sleeps past its lease, while nobody wants the volume, goes on",
  async () => {
    const { history, server } = await stage("alone");
    await history.write(server.uri("alone"));
    await history.advance(WRITES);
    server.pause();
    await Bun.sleep(PAST_LEASE_MS);
    server.resume();
    await history.advance(WRITES);
    await history.halt();
    await history.verify(server.uri("alone"));
    expect(await server.stop()).toBe(0);
  },
  300_000,
);

scene.test(
  "a daemon that hangs under load costs a stall and no error, and catches up when it goes on",
  async () => {
    const { history, server } = await stage("hung");
    const daemon = cluster.daemons[1]!;
    await history.write(server.uri("hung"));
    await history.advance(WRITES);
    daemon.pause();
    await history.advance(WRITES);
    await Bun.sleep(DAEMON_PAUSE_MS);
    await history.advance(WRITES);
    daemon.resume();
    await history.advance(WRITES);
    console.log(`longest stall of a flush with a daemon hung: ${history.stallMsMax} ms`);
    await history.halt();
    await history.verify(server.uri("hung"));
    await waitFor(
      "all to be well again",
      async () => (await cluster.ctlJson<{ health: string }>("status")).health === "ok",
      120_000,
    );
    expect(await server.stop()).toBe(0);
  },
  300_000,
);

scene.test(
  "the volume of a killed client is open again at once on its machine",
  async () => {
    const { history, server } = await stage("killed");
    await history.write(server.uri("killed"));
    await history.advance(WRITES);
    await server.kill();
    await history.halt();
    // It would fail at once if it had to wait for the lease.
    const successor = await cluster.serve("successor", ["killed"], { flags: ["--wait", "0s"] });
    expect(successor.output()).not.toContain("attached by");
    await history.verify(successor.uri("killed"));
    expect(await successor.stop()).toBe(0);
  },
  300_000,
);
