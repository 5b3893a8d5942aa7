import { describe, expect, test } from "bun:test";
import { buildRing, copyCount } from "../../../../src/ring";
import { outputStyle } from "../../../../src/commands/output";
import { renderComparison, renderSimulation } from "../../../../src/commands/ringtool/report";
import { parseScenario, type RingtoolFlags, scenarioRings } from "../../../../src/commands/ringtool/scenario";
import { simulate } from "../../../../src/commands/ringtool/simulate";
import { renderSvg } from "../../../../src/commands/ringtool/svg";
import { forEachRun } from "../../../../src/commands/ringtool/workload";

const json = outputStyle({ json: true });
const small = { "total-data": "2GiB" };

describe("parseScenario", () => {
  test("has the documented defaults", () => {
    const scenario = parseScenario({});
    expect([scenario.type, scenario.nodesBefore, scenario.nodesAfter]).toEqual(["table", 10, 12]);
    expect([scenario.replicationBefore, scenario.replicationAfter]).toEqual([2, 2]);
    expect([scenario.blockSizeBytes, scenario.blockCount, scenario.rewrittenPercent]).toEqual([
      524_288, 2_097_152, 40,
    ]);
  });

  test.each<[RingtoolFlags, string]>([
    [{ ring: "crush" }, 'Cannot simulate ring "crush": give one of table, rendezvous, ketama, mod'],
    [{ nodes: "0" }, 'Cannot take --nodes "0": give a whole number from 1 to 1024'],
    [{ nodes: "3", delta: "-3" }, 'Cannot take --delta "-3": give a whole number from -2 to 1021'],
    [{ rep: "2.5" }, 'Cannot take --rep "2.5": give a whole number from 1 to 16'],
    [{ "rewrite-edge": "101" }, 'Cannot take --rewrite-edge "101": give a whole number from 0 to 100'],
    [{ "block-size": "0" }, "Cannot simulate blocks of no size: give --block-size 512KiB"],
    [{ "total-data": "1K" }, "Cannot simulate 0 blocks: give --total-data of 1 to 2^40 blocks"],
    [{ zones: "0" }, "Cannot make 0 zones: give 1 to 1024, or names like a,b,c"],
    [
      { weights: "1,x" },
      'Cannot weigh a peer at "x": give a number above 0 or a capacity, like 1,2,4 or 1TiB,2TiB',
    ],
    [
      { weights: "0" },
      'Cannot weigh a peer at "0": give a number above 0 or a capacity, like 1,2,4 or 1TiB,2TiB',
    ],
  ])("refuses %p", (flags, message) => {
    expect(() => parseScenario(flags)).toThrow(message);
  });

  test("gives weights and zones to peers in turn, capacities in GiB", () => {
    const { members } = parseScenario({ weights: "1TiB,2TiB", zones: "a,b,a" });
    expect(members.slice(0, 4).map(({ weight, zone }) => [weight, zone])).toEqual([
      [1024, "a"],
      [2048, "b"],
      [1024, "a"],
      [2048, "a"],
    ]);
  });

  test("changes peers and replication at once", () => {
    const { before, after } = scenarioRings(
      parseScenario({ nodes: "5", delta: "-2", rep: "2", repEnd: "3" }),
      "table",
    );
    expect([before.members.length, after.members.length, copyCount(before), copyCount(after)]).toEqual([
      5, 3, 2, 3,
    ]);
  });
});

describe("simulate", () => {
  test("counts tables by partition exactly as block by block", () => {
    for (const seed of ["1", "2", "3"]) {
      const scenario = parseScenario({ ...small, "total-data": "20GiB", seed, zones: "3", weights: "1,2,4" });
      const { before, after } = scenarioRings(scenario, "table");
      const [ringBefore, ringAfter] = [buildRing(before), buildRing(after)];
      const out = new Uint16Array(16);
      const held = new Map<string, number>();
      let [sent, blocks] = [0, 0];
      forEachRun(scenario, ({ first, count }) => {
        for (let offset = 0; offset < count; offset++) {
          const ref = { ...first, index: first.index + offset };
          const had = [...out.subarray(0, ringBefore.permutation(ref, 2, out))].map(
            (i) => ringBefore.peers[i],
          );
          const has = [...out.subarray(0, ringAfter.permutation(ref, 2, out))].map(
            (i) => ringAfter.peers[i] as string,
          );
          for (const peer of has) held.set(peer, (held.get(peer) ?? 0) + 1);
          sent += has.filter((peer) => !had.includes(peer as never)).length;
          blocks++;
        }
      });
      const { tally } = simulate(scenario, "table");
      expect([tally.blocks, tally.blocksSent]).toEqual([blocks, sent]);
      for (const peer of tally.peers) expect(peer.blocksAfter).toBe(held.get(peer.peerId) ?? 0);
    }
  });

  test.each(["table", "rendezvous", "ketama", "mod"] as const)("%s: every copy is kept or sent", (type) => {
    const { tally } = simulate(parseScenario({ ...small, nodes: "6", delta: "-1", rep: "3" }), type);
    const after = tally.peers.reduce((sum, peer) => sum + peer.blocksAfter, 0);
    expect(after).toBe(3 * tally.blocks);
    expect(tally.blocksKept + tally.blocksSent).toBe(after);
    for (const peer of tally.peers)
      expect(peer.blocksBefore - peer.blocksDropped + peer.blocksReceived).toBe(peer.blocksAfter);
  });

  test("the default ring balances a tebibyte within one per cent and moves the least", () => {
    for (const flags of [
      {},
      { nodes: "20", delta: "-1", rep: "3" },
      { weights: "1,2,4", nodes: "12", delta: "3" },
    ]) {
      const { tally, balanceAfter } = simulate(parseScenario(flags), "table");
      expect(balanceAfter.worstDeviation).toBeLessThan(0.01);
      expect(tally.blocksSent / tally.blocksSentLeast).toBeLessThan(1.01);
      expect(tally.after.blocksViolating).toBe(0);
    }
  }, 60_000);

  test("samples what would be too many blocks, and counts petabytes of a table wholly", () => {
    const sampled = simulate(parseScenario({ "total-data": "10TiB" }), "mod");
    expect(sampled.sampling).toBe(3);
    expect(Math.abs(sampled.tally.blocks / (20 * 2 ** 20) - 1)).toBeLessThan(0.001);
    const whole = simulate(parseScenario({ "total-data": "100TiB", "rewrite-edge": "0" }), "table");
    expect([whole.sampling, whole.tally.blocks]).toEqual([1, 200 * 2 ** 20]);
  }, 60_000);

  test("is the same for the same seed and another for another", () => {
    const sent = (seed: string) => simulate(parseScenario({ ...small, seed }), "ketama").tally.blocksSent;
    expect(sent("5")).toBe(sent("5"));
    expect(sent("5")).not.toBe(sent("6"));
  });
});

describe("reports", () => {
  const simulation = simulate(parseScenario({ ...small, nodes: "3", delta: "1", zones: "a,b" }), "table");

  test("JSON has the figures and a row a peer", () => {
    const report = JSON.parse(renderSimulation(simulation, json));
    expect(report).toMatchObject({ ring: "table", nodesBefore: 3, nodesAfter: 4, blocks: 4096, sampling: 1 });
    expect(report.peers.map((peer: { peer: string; zone: string }) => [peer.peer, peer.zone])).toEqual([
      ["peer-01", "a"],
      ["peer-02", "b"],
      ["peer-03", "a"],
      ["peer-04", "b"],
    ]);
    expect(report.peers[3].bytesReceived).toBe(report.peers[3].bytesAfter);
  });

  test("CSV has a row a peer, and with --compare a row a type", () => {
    const csv = renderSimulation(simulation, outputStyle({ csv: true }))
      .trimEnd()
      .split("\n");
    expect(csv).toHaveLength(5);
    expect(csv[0]).toBe("peer,zone,weight,bytesBefore,bytesAfter,bytesIdeal,bytesReceived,bytesDropped");
    const compared = renderComparison([simulation, simulation], outputStyle({ csv: true }));
    expect(compared.trimEnd().split("\n")).toHaveLength(3);
    expect(JSON.parse(renderComparison([simulation], json))).toHaveLength(1);
  });

  test("a terminal gets a bar a peer and the totals in words", () => {
    const text = renderSimulation(simulation, outputStyle({}, false));
    expect(text).toContain("table ring, 3 to 4 peers, 2 copies, 2 GiB in 4,096 blocks of 512 KiB");
    expect(text.match(/█/g)?.length).toBeGreaterThan(100);
    expect(text).toContain("Zones    no two copies of a block in one failure domain");
  });

  test("says so when failure domains are too few, broken, or copies find no peer", () => {
    const report = (flags: RingtoolFlags, type: "table" | "mod") =>
      renderSimulation(simulate(parseScenario({ ...small, ...flags }), type), outputStyle({}, false));
    expect(report({ zones: "2", rep: "3" }, "table")).toContain(
      "every block in all 2 failure domains there are, fewer than its 3 copies",
    );
    expect(report({ zones: "a,a,b" }, "mod")).toMatch(
      /[\d.]+% of blocks in fewer than the 2 failure domains possible/,
    );
    expect(report({ nodes: "1", delta: "1", rep: "3" }, "table")).toContain(
      "1 of the copies asked for find no peer",
    );
  });

  test("SVG is well-formed, with names escaped", () => {
    const svg = renderSvg(simulate(parseScenario({ ...small, zones: "a&b,<c>" }), "table"), false);
    expect(svg).toContain("peer-01 (a&amp;b)");
    expect(svg).toContain("peer-02 (&lt;c&gt;)");
    const open = svg.match(/<(?!\/)[a-z]+/g)?.length ?? 0;
    const closed = (svg.match(/<\/[a-z]+>/g)?.length ?? 0) + (svg.match(/\/>/g)?.length ?? 0);
    expect(open).toBe(closed);
  });
});
