/** The network between clients, peers and the metadata service, and that service. */
import { METADATA } from "../world/metadata";
import type { FaultTools, Kind } from "./stage";

const CALM_NETWORK = { latencyMs: 0.4, resetChance: 0, duplicateChance: 0, corruptChance: 0 };
const CALM_METADATA = { latencyMs: 1, lostReplyChance: 0, lostRequestChance: 0 };

export function networkFaults(tools: FaultTools): Kind[] {
  const { stage, random, later, durationMs, log } = tools;
  const { network, metadata } = stage;

  /** Messages from some machines to others vanish: one way or both. */
  const cut = (ones: readonly string[], others: readonly string[]): boolean => {
    const pairs = ones.flatMap((one) => others.filter((other) => other !== one).map((other) => [one, other]));
    if (pairs.length === 0) return false;
    const direction = random.pick(["both", "to", "from"] as const);
    log(`${ones.join(", ")} cut off from ${others.join(", ")} (${direction})`);
    for (const [one, other] of pairs as [string, string][]) {
      if (direction !== "from") network.block(one, other);
      if (direction !== "to") network.block(other, one);
    }
    later(durationMs(), () => {
      log(`${ones.join(", ")} reach ${others.join(", ")} again`);
      for (const [one, other] of pairs as [string, string][]) {
        network.unblock(one, other);
        network.unblock(other, one);
      }
    });
    return true;
  };

  const some = (names: readonly string[]): string[] => names.filter(() => random.chance(0.4));
  const peerNames = (): string[] => stage.peers.map((peer) => peer.name);
  const clientNames = (): string[] => stage.clients.map((client) => client.name);

  return [
    {
      name: "client cut off from peers",
      inject(struck) {
        if (cut([random.pick(clientNames())], some(peerNames()))) struck();
      },
    },
    {
      name: "peers cut off from peers",
      inject(struck) {
        if (cut([random.pick(peerNames())], some(peerNames()))) struck();
      },
    },
    {
      name: "network in two halves",
      inject(struck) {
        const all = [...peerNames(), ...clientNames(), METADATA];
        const half = some(all);
        const rest = all.filter((name) => !half.includes(name));
        if (cut(half, rest)) struck();
      },
    },
    {
      name: "slow link",
      inject(struck) {
        const client = random.pick(clientNames());
        const peer = random.pick(peerNames());
        const extraMs = random.pick([5, 100, 1_500]);
        const [from, to] = random.chance(0.5) ? ([client, peer] as const) : ([peer, client] as const);
        struck();
        network.slowDown(from, to, extraMs);
        log(`messages from ${from} to ${to} take ${extraMs} ms more`);
        later(durationMs(), () => network.slowDown(from, to, 0));
      },
    },
    {
      name: "bad network",
      inject(struck) {
        const { weather } = network;
        weather.latencyMs = random.pick([0.4, 3, 30]);
        weather.resetChance = random.pick([0, 0.01, 0.1]);
        weather.duplicateChance = random.pick([0, 0.05, 0.3]);
        weather.corruptChance = random.pick([0, 0.02, 0.1]);
        struck();
        log(`network: ${JSON.stringify(weather)}`);
        later(durationMs(), () => Object.assign(weather, CALM_NETWORK));
      },
    },
    {
      name: "metadata lossy",
      inject(struck) {
        const { weather } = metadata;
        weather.latencyMs = random.pick([1, 20, 300]);
        weather.lostReplyChance = random.pick([0, 0.1, 0.4]);
        weather.lostRequestChance = random.pick([0, 0.1, 0.3]);
        struck();
        log(`metadata: ${JSON.stringify(weather)}`);
        later(durationMs(), () => Object.assign(weather, CALM_METADATA));
      },
    },
    {
      name: "metadata stopped",
      inject(struck) {
        const { weather } = metadata;
        weather.stopped = true;
        struck();
        log("the metadata service stops");
        later(durationMs(), () => {
          weather.stopped = false;
          log("the metadata service answers again");
        });
      },
    },
    {
      name: "metadata restarts",
      inject(struck) {
        const end = (): void => {
          if (!metadata.goDown()) return;
          struck();
          log("the metadata service ends");
          later(durationMs(), () => {
            metadata.comeBack(random.chance(0.5));
            log("the metadata service is there again");
          });
        };
        if (random.chance(0.5)) metadata.onNextChange = end;
        else end();
      },
    },
    {
      name: "metadata compacted",
      inject(struck) {
        struck();
        metadata.inner.compact();
      },
    },
    {
      name: "metadata cut off",
      inject(struck) {
        if (cut([random.pick([...clientNames(), ...peerNames()])], [METADATA])) struck();
      },
    },
  ];
}
