/**
 * Seeds that failed once, each with what was wrong. A change of the simulator turns a seed into another story, so what
 * they found is held by tests of its own where that is possible; they are run all the same, being as good as any.
 */
export const REGRESSIONS: readonly { readonly seed: number; readonly what: string }[] = [
  { seed: 19, what: "an open that ended after the last look left INode blocks behind: it is waited for" },
  {
    seed: 36,
    what: "a power loss within a write that begins a new segment: the dead process goes on in its turn",
  },
  { seed: 978, what: "a failed read that was asked for long before struck the only copy of a newer block" },
  { seed: 1332, what: "a client that was stopped within its open counted as newer than its successor" },
  { seed: 1347, what: "a ring was put back to members of which one had burned down meanwhile" },
  { seed: 1487, what: "a disk was spared away while a write gone astray had damaged the other copy unseen" },
  { seed: 1777, what: "a disk was taken while an open was about to count on it" },
  { seed: 1866, what: "zeroes of a later session's trim were taken for an earlier session's" },
  {
    seed: 1512,
    what: "a member was taken into a log set as the disk that it had been heard to have before it lost it",
  },
  { seed: 2113, what: "bits had flipped where the journal came much later" },
  { seed: 2325, what: "an opener named a peer in its log set whose superblock had rotted unseen" },
  { seed: 2499, what: "a registration repeated in one life was taken for a disk that was rolled back" },
  { seed: 3823, what: "a write that was to go astray struck the only copy of a block of a later writer" },
  { seed: 4346, what: "a disk that was put back to a moment of its present start kept its incarnation" },
  { seed: 4577, what: "blocks went to one peer alone after its superblock had rotted unseen" },
  { seed: 6407, what: "a write that was to go astray struck the only copy there is, of one" },
  {
    seed: 10105,
    what: "a ring whose only members are lost machines: they are forgotten before volumes are opened",
  },
  { seed: 20568, what: "the width was lowered to one with a member whose disk was gone" },
];
