/** What a ring asks for and its peers cannot give. */
import { describe, expect, test } from "bun:test";
import { peerShortfall, zoneShortfall } from "../../../../src/commands/ctl/shortfall";
import { createRing, nextRing } from "../../../../src/ring";
import { members, peerId } from "../../ring/support";

const ringOf = (replication: number, zones: readonly string[]) =>
  createRing({
    replication,
    members: members(
      zones.length,
      () => 100,
      (index) => zones[index] ?? "",
    ),
  });

describe("peerShortfall", () => {
  test("counts the peers that take blocks", () => {
    const ring = ringOf(2, ["", ""]);
    expect(peerShortfall(ring)).toBeUndefined();
    const drained = nextRing(ring, { kind: "drain", peerId: peerId(0) });
    expect(peerShortfall(drained)).toBe("The ring asks for 2 copies and has 1 peer to hold them: add peers");
  });
});

describe("zoneShortfall", () => {
  test.each([
    [2, ["a", "a"], "All peers are in 1 zone,"],
    [3, ["a", "a", "b", "b"], "All peers are in 2 zones,"],
    [3, ["a", "a", ""], "All peers are in 2 zones,"],
  ])("says of %d copies in %p that some share a zone", (replication, zones, said) => {
    expect(zoneShortfall(ringOf(replication, zones))).toStartWith(said);
  });

  test.each([
    [1, ["a", "a"]],
    [2, ["a", "b", "b"]],
    [3, ["", "", ""]],
    [3, ["a", "a", "", ""]],
    [3, ["a"]],
  ])("is silent about %d copies in %p", (replication, zones) => {
    expect(zoneShortfall(ringOf(replication, zones))).toBeUndefined();
  });

  test("does not count the zone of a peer that is drained", () => {
    const drained = nextRing(ringOf(2, ["a", "a", "b"]), { kind: "drain", peerId: peerId(2) });
    expect(zoneShortfall(drained)).toStartWith("All peers are in 1 zone,");
  });
});
