/** Administrators and operators, who do everything at the worst moment. */
import { sleep } from "../../../src/base";
import { MetaError, RingAdmin, VolumeAdmin } from "../../../src/meta";
import { nextRing, type RingChange, RingError, type RingSpec } from "../../../src/ring";
import type { SimPeer } from "../actors/peer";
import type { FaultTools, Kind, Stage } from "./stage";

const PEERS_MAX = 6;

export function administrationFaults(tools: FaultTools): Kind[] {
  const { stage, random, log, administer, strikeExpendable } = tools;
  const { context, snapshots, volumeName } = stage;

  /** What an administrator is refused is part of the game; anything else is a bug. */
  const attempt = (what: string, work: () => Promise<string>): void => {
    administer(
      work().then(
        (outcome) => log(`${what}: ${outcome}`),
        (error: unknown) => {
          if (!(error instanceof MetaError || error instanceof RingError)) throw error;
          log(`${what} fails: ${error.message}`);
        },
      ),
    );
  };

  return [
    {
      name: "force unlock",
      inject(struck) {
        struck();
        attempt("forced unlock", async () => {
          const was = await new VolumeAdmin(context).forceUnlock(volumeName);
          return was ? "unlocked" : "was not locked";
        });
      },
    },
    {
      name: "snapshot",
      inject(struck) {
        struck();
        administer(snapshots.take());
      },
    },
    {
      name: "snapshot deleted",
      inject(struck) {
        struck();
        administer(snapshots.delete());
      },
    },
    {
      name: "snapshot read",
      inject(struck) {
        if (snapshots.list.length === 0) return;
        struck();
        administer(snapshots.read(random.pick(snapshots.list)).then(() => undefined));
      },
    },
    {
      name: "clone",
      inject(struck) {
        struck();
        administer(snapshots.clone());
      },
    },
    {
      name: "grow",
      inject(struck) {
        struck();
        attempt("growing", async () => {
          await new VolumeAdmin(context).resize(volumeName, stage.volumeBytes, { timeoutMs: 10_000 });
          return "done";
        });
      },
    },
    {
      name: "ring change",
      inject(struck) {
        attempt("ring change", async () => {
          const peer = random.pick(stage.peers);
          const ring = await changeRing(stage, (current) => random.pick(changesFor(tools, current, peer)));
          struck();
          return describeRing(ring);
        });
      },
    },
    {
      // Two changes, one after the other, the second back to what was: who knows which of them by now?
      name: "ring turned and back",
      inject(struck) {
        attempt("ring turned", async () => {
          const before = await new RingAdmin(context).current();
          const peer = random.pick(stage.peers);
          await changeRing(stage, (current) => random.pick(changesFor(tools, current, peer)));
          struck();
          await sleep(context.clock, 20 + random.delayMs(1_500));
          // No administrator puts a machine back that burned down meanwhile.
          const members = before.members.filter(({ peerId }) =>
            stage.peers.some((one) => one.peerId === peerId),
          );
          const back = { kind: "manual", type: before.type, members } as const;
          return describeRing(await changeRing(stage, () => back));
        });
      },
    },
    {
      name: "peer added",
      inject(struck) {
        if (stage.peers.length >= PEERS_MAX) return;
        struck();
        const peer = stage.addPeer();
        peer.boot();
        attempt(`${peer.name} joins`, async () => describeRing(await addToRing(stage, peer)));
      },
    },
    {
      // A machine burns down; a new one takes its place, as somebody else.
      name: "peer lost for good",
      needsCalm: true,
      inject(struck) {
        strikeExpendable(
          () => true,
          (peer) => {
            struck();
            peer.process.log("is lost for good");
            peer.crash(true);
            stage.retirePeer(peer);
            const heir = stage.addPeer();
            heir.boot();
            attempt(`${heir.name} takes the place of ${peer.name}`, async () => {
              await addToRing(stage, heir);
              return (await stage.forgetRetired()) ? "done" : "not done yet";
            });
          },
        );
      },
    },
  ];
}

async function changeRing(stage: Stage, choose: (current: RingSpec) => RingChange): Promise<RingSpec> {
  const rings = new RingAdmin(stage.context);
  const current = await rings.current();
  const next = nextRing(current, choose(current));
  await rings.change(next);
  return next;
}

function addToRing(stage: Stage, { peerId }: SimPeer): Promise<RingSpec> {
  return changeRing(stage, () => ({ kind: "add", members: [{ peerId, weight: 1, zone: "" }] }));
}

function changesFor({ stage, random }: FaultTools, current: RingSpec, { peerId }: SimPeer): RingChange[] {
  const replication = random.between(1, Math.min(3, stage.peers.length));
  const type = random.pick(["table", "rendezvous", "ketama", "mod"] as const);
  const changes: RingChange[] = [
    { kind: "set-replication", replication },
    { kind: "manual", type },
  ];
  const member = current.members.find((each) => each.peerId === peerId);
  if (member === undefined) changes.push({ kind: "add", members: [{ peerId, weight: 1, zone: "" }] });
  else if (member.weight === 0) changes.push({ kind: "undrain", peerId, weight: 1 });
  // Somebody has to take blocks: an empty ring is refused to every open, rightly.
  else if (current.members.filter((each) => each.weight > 0).length > 1)
    changes.push({ kind: "drain", peerId }, { kind: "remove", peerIds: [peerId] });
  return changes;
}

function describeRing({ version, type, replication, members }: RingSpec): string {
  return `ring version ${version}: ${type}, replication ${replication}, ${members.length} members`;
}
