/** Machines and processes: they crash, at any write, hang, wake up late, and have wrong clocks. */
import type { SimPeer } from "../actors/peer";
import type { FaultTools, Kind, Stage } from "./stage";

/** Writes and syncs of a peer until one of them is its last. */
const OPERATIONS_MAX = 12;

export function machineFaults(tools: FaultTools): Kind[] {
  const { stage, random, later, durationMs, log } = tools;

  const crashPeer = (peer: SimPeer): void => {
    peer.crash(random.chance(0.6));
    later(durationMs(), () => peer.boot());
  };

  const restartClient = (client: Stage["clients"][0]): void => {
    client.crash();
    later(durationMs() / 4, () => client.boot());
  };

  return [
    {
      name: "peer crash",
      inject(struck) {
        const peer = random.pick(stage.peers);
        if (!peer.alive) return;
        struck();
        crashPeer(peer);
      },
    },
    {
      name: "peer crash in a write",
      inject(struck) {
        const peer = random.pick(stage.peers);
        if (!peer.alive) return;
        peer.disk.interruptAfter(random.between(1, OPERATIONS_MAX), () => {
          struck();
          crashPeer(peer);
        });
      },
    },
    {
      name: "all peers crash",
      inject(struck) {
        struck();
        log("all peers crash");
        const everything = random.chance(0.3);
        for (const peer of stage.peers) crashPeer(peer);
        if (everything) for (const client of stage.clients) restartClient(client);
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
        restartClient(client);
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
