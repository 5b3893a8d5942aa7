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
