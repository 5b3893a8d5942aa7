/**
 * What a ring asks for and its peers cannot give: as many peers as copies, and as many failure domains. Said before a
 * change is made and while it holds, because nothing else shows it: blocks are read and written all the same.
 */
import { copyCount, placingMembers, type RingSpec } from "../../ring";

/** Fewer peers that take blocks than copies; undefined when there are enough. */
export function peerShortfall(ring: RingSpec): string | undefined {
  const placing = placingMembers(ring).length;
  return placing >= ring.replication
    ? undefined
    : `The ring asks for ${ring.replication} copies and has ${placing} ${placing === 1 ? "peer" : "peers"} to hold them: add peers`;
}

/** Fewer zones than copies that can be made; undefined when there are enough. A peer without a zone is one of its own. */
export function zoneShortfall(ring: RingSpec): string | undefined {
  const copies = copyCount(ring);
  const placing = placingMembers(ring);
  const named = new Set(placing.flatMap(({ zone }) => (zone === "" ? [] : [zone])));
  const zones = named.size + placing.filter(({ zone }) => zone === "").length;
  return zones >= copies
    ? undefined
    : `All peers are in ${zones} ${zones === 1 ? "zone" : "zones"}, so that some of the ${copies} copies of a block share one: add peers in other zones, or see torus ctl peer set-zone`;
}
