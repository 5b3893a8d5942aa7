/** Changes of the ring by many at once, from commands and from daemons that join: none is lost, none made twice. */
import { expect } from "bun:test";
import { Cluster, openScene, waitFor } from "./harness";

const scene = openScene("placement-races");
const PEER_COUNT = 5;

interface Ring {
  readonly version: number;
  readonly replication: number;
  readonly members: readonly { readonly peerId: string; readonly weight: number; readonly zone: string }[];
}

let cluster: Cluster;
const attempt = (...args: string[]) => cluster.attempt(["ctl", ...args, ...cluster.metaFlags]);
const ring = () => cluster.ctlJson<Ring>("ring", "get");

scene.test("daemons that join at the same moment are all members", async () => {
  cluster = await Cluster.withEtcd(scene, { peerCount: 0, size: "256MiB" });
  const { version } = await ring();
  const daemons = await Promise.all(
    Array.from({ length: PEER_COUNT }, (_, index) => cluster.addDaemon(index)),
  );
  await Promise.all(daemons.map((daemon) => daemon.start()));
  await waitFor("all to be members", async () => (await ring()).members.length === PEER_COUNT);
  const joined = await ring();
  expect(new Set(joined.members.map((member) => member.peerId)).size).toBe(PEER_COUNT);
  expect(joined.version).toBe(version + PEER_COUNT);
});

scene.test("changes by many commands at once are all made, each exactly once", async () => {
  const before = await ring();
  const changes = [
    ...before.members.map(({ peerId }, index) => ["peer", "set-weight", peerId, String(10 + index)]),
    ...before.members.map(({ peerId }, index) => ["peer", "set-zone", peerId, `rack-${index}`]),
    ["ring", "set-replication", "2"],
  ];
  await Promise.all(changes.map((change) => cluster.ctl(...change)));
  const after = await ring();
  expect(after.version).toBe(before.version + changes.length);
  expect(after.replication).toBe(2);
  for (const [index, { peerId }] of before.members.entries()) {
    const member = after.members.find((one) => one.peerId === peerId);
    expect(member).toMatchObject({ weight: 10 + index, zone: `rack-${index}` });
  }
});

interface Plan {
  readonly fromVersion: number;
  readonly toVersion: number;
  readonly peers: readonly { readonly peerId: string; readonly bytesAfter: number; readonly zone: string }[];
}

scene.test(
  "ring and peers' records agree after changes of one peer at once, and a refused one changes neither",
  async () => {
    const { members, version } = await ring();
    const { peerId } = members[1]!;
    const weights = [21, 22, 23, 24, 25, 26].map(String);
    await Promise.all(weights.map((weight) => cluster.ctl("peer", "set-weight", peerId, weight)));
    for (const [value, exitCode] of [
      ["1e300", 1],
      ["0", 2],
    ] as const)
      expect(await attempt("peer", "set-weight", peerId, value)).toMatchObject({ exitCode });
    const inRing = (await ring()).members.find((member) => member.peerId === peerId)!;
    const record = (await cluster.peers()).find((peer) => peer.peerId === peerId)!;
    expect(weights).toContain(String(inRing.weight));
    expect(record.weight).toBe(inRing.weight);
    expect((await ring()).version).toBe(version + weights.length);
  },
);

scene.test("a plan shows several changes at once, and changes nothing", async () => {
  const before = await ring();
  const [first, second, third] = before.members.map((member) => member.peerId) as [string, string, string];
  const plan = await cluster.ctlJson<Plan>(
    ...["ring", "plan", "--remove", first, "--drain", second],
    ...["--weight", `${third}=40`, "--zone", `${third}=attic`, "--replication", "3"],
  );
  expect(plan.toVersion).toBe(before.version + 5);
  expect(plan.peers.find((peer) => peer.peerId === third)?.zone).toBe("attic");
  expect(await ring()).toEqual(before);
  const refused = await attempt("ring", "plan", "--remove", first, "--type", "ketama");
  expect(refused).toMatchObject({ exitCode: 2 });
});

scene.test("a weight of a draining peer waits until it is undrained", async () => {
  const { peerId } = (await ring()).members[2]!;
  const weight = async () => (await ring()).members.find((member) => member.peerId === peerId)?.weight;
  await cluster.ctl("peer", "drain", peerId);
  expect(await cluster.ctl("peer", "set-weight", peerId, "55")).toContain("when undrained");
  expect(await weight()).toBe(0);
  await cluster.ctl("peer", "undrain", peerId);
  expect(await weight()).toBe(55);
});

scene.test(
  "a peer that is down is not removed by a slip while as many as hold a block's copies are",
  async () => {
    const before = await ring();
    const lost = cluster.daemons.slice(0, before.replication);
    for (const daemon of lost) await daemon.kill();
    const isDown = async () => (await cluster.peers()).filter((peer) => peer.member === "DOWN");
    await waitFor("them to be seen as down", async () => (await isDown()).length === lost.length);
    const [one] = await isDown();
    const refused = await attempt("peer", "remove", one!.peerId);
    expect(refused.exitCode).toBe(1);
    expect(refused.stderr).toContain("blocks that only they hold");
    expect(await ring()).toEqual(before);
    for (const daemon of lost) await daemon.start();
    await waitFor("them to be back", async () => (await isDown()).length === 0);
  },
);

scene.test("a daemon whose metadata is elsewhere says so at once", async () => {
  const asked = await cluster.attempt(["ctl", "status", "--meta", cluster.daemons[0]!.adminUrl]);
  expect(asked.exitCode).toBe(2);
  expect(asked.stderr).toContain("its metadata lives elsewhere");
});

scene.test("the last peers that take blocks are not removed by a slip", async () => {
  const before = await ring();
  const all = before.members.map((member) => member.peerId);
  const refused = await attempt("peer", "remove", ...all);
  expect(refused.exitCode).toBe(1);
  expect(refused.stderr).toContain("none that takes blocks would be left");
  expect(await ring()).toEqual(before);
});

scene.test(
  "a peer that restarts does not join twice, and one that was removed stays out of the others' way",
  async () => {
    const before = await ring();
    const [first, last] = [before.members[0]!.peerId, before.members.at(-1)!.peerId];
    await Promise.all([
      cluster.ctl("peer", "drain", last),
      cluster.daemons[0]!.restart(),
      cluster.ctl("peer", "set-weight", first, "77"),
    ]);
    const after = await ring();
    expect(after.members.length).toBe(PEER_COUNT);
    expect(after.version).toBe(before.version + 2);
    expect(after.members.find((one) => one.peerId === first)?.weight).toBe(77);
    expect(after.members.find((one) => one.peerId === last)?.weight).toBe(0);
  },
);
