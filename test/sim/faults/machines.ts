/** Machines and processes: they crash, at any write, hang, wake up late, and have wrong clocks. */
import type { SimPeer } from "../actors/peer";
import type { SimClient } from "../actors/client";
import { METADATA } from "../world/metadata";
import type { FaultTools, Kind } from "./stage";

/** Writes and syncs of a peer until one of them is its last. */
const OPERATIONS_MAX = 12;

export function crashForAWhile({ random, later, durationMs }: FaultTools, peer: SimPeer): void {
  peer.crash(random.chance(0.6));
  later(durationMs(), () => peer.boot());
}

export function restartClient({ later, durationMs }: FaultTools, client: SimClient): void {
  client.crash();
  later(durationMs() / 4, () => client.boot());
}

/** Whoever opens a volume now has to do with what few peers know, or to wait for the others. */
function leaveFewPeers(tools: FaultTools): void {
  const { stage, random, later, holdStill, log } = tools;
  const chosen = random.pick(stage.peers);
  const left = stage.peers.filter((peer) => peer === chosen || random.chance(0.25));
  log(`only ${left.map(({ name }) => name).join(", ")} left`);
  for (const peer of stage.peers) {
    if (left.includes(peer)) continue;
    peer.crash(random.chance(0.5));
    later(3_000 + random.delayMs(3_000), () => peer.boot());
  }
  for (const client of stage.clients) restartClient(tools, client);
  if (random.chance(0.5)) holdStill(2_000);
}

export function machineFaults(tools: FaultTools): Kind[] {
  const { stage, random, later, durationMs, holdStill, log } = tools;

  return [
    {
      name: "peer crash",
      inject(struck) {
        const peer = random.pick(stage.peers);
        if (!peer.alive) return;
        struck();
        crashForAWhile(tools, peer);
      },
    },
    {
      name: "peer crash in a write",
      inject(struck) {
        const peer = random.pick(stage.peers);
        if (!peer.alive) return;
        const all = random.chance(0.4);
        peer.disk.interruptAfter(random.between(1, OPERATIONS_MAX), () => {
          struck();
          for (const each of all ? [...stage.peers] : [peer]) {
            each.crash(true);
            later(durationMs(), () => each.boot());
          }
        });
      },
    },
    {
      name: "all peers crash",
      inject(struck) {
        struck();
        log("all peers crash");
        const everything = random.chance(0.3);
        for (const peer of stage.peers) crashForAWhile(tools, peer);
        if (everything) for (const client of stage.clients) restartClient(tools, client);
      },
    },
    {
      name: "few peers left",
      inject(struck) {
        if (stage.peers.length < 2) return;
        struck();
        leaveFewPeers(tools);
      },
    },
    {
      name: "few peers left in a change of the log set",
      inject(struck) {
        const client = random.pick(stage.clients);
        client.onSetChange = () => {
          client.onSetChange = undefined;
          const afterMs = 5 + random.delayMs(150);
          later(afterMs, () => {
            if (stage.peers.length < 2) return;
            struck();
            leaveFewPeers(tools);
          });
        };
      },
    },
    {
      name: "peer pause",
      inject(struck) {
        const peer = random.pick(stage.peers);
        if (!peer.alive || peer.process.paused) return;
        struck();
        const { process } = peer;
        process.pause();
        log(`${peer.name} hangs`);
        later(durationMs(), () => process.resume());
      },
    },
    {
      name: "client crash",
      inject(struck) {
        const client = random.pick(stage.clients);
        if (!client.alive) return;
        struck();
        restartClient(tools, client);
      },
    },
    {
      name: "client pause",
      inject(struck) {
        const client = random.pick(stage.clients);
        if (!client.alive || client.process.paused) return;
        struck();
        const { process } = client;
        process.pause();
        log(`${client.name} is stopped`);
        later(durationMs(), () => {
          log(`${client.name} goes on`);
          process.resume();
        });
      },
    },
    {
      // It goes on writing, and its peers hear it, while the metadata does not: somebody else opens meanwhile.
      name: "writer left behind",
      inject(struck) {
        const client = random.pick(stage.clients);
        if (client.volume === undefined || client.process.paused) return;
        struck();
        const { process, name } = client;
        const stops = random.chance(0.5);
        const absentMs = stage.leaseTtlMs + 1_000 + random.below(2_000);
        if (random.chance(0.7)) holdStill(absentMs + 1_500);
        log(`${name} is left behind for ${absentMs.toFixed(0)} ms${stops ? ", stopped" : ""}`);
        client.lingers = true;
        stage.network.block(name, METADATA);
        stage.network.block(METADATA, name);
        if (stops) process.pause();
        later(absentMs, () => process.resume());
        // Peers that start anew must remember whom they fenced.
        if (stops && random.chance(0.6))
          later(absentMs - 500, () => {
            for (const peer of stage.peers) {
              peer.crash(true);
              later(100, () => peer.boot());
            }
          });
        later(absentMs + 2_500, () => {
          client.lingers = false;
          stage.network.unblock(name, METADATA);
          stage.network.unblock(METADATA, name);
        });
      },
    },
    {
      name: "wall clock jump",
      inject(struck) {
        const { process } = random.pick([...stage.clients, ...stage.peers]);
        struck();
        process.wallSkewMs = random.between(-10_000_000, 10_000_000);
        log(`the wall clock of ${process.name} is off by ${process.wallSkewMs} ms`);
      },
    },
  ];
}
