/** Asks peers how much they take before they are nearly full. */
import { type Clock, type PeerId, within } from "../../base";
import type { PeerTransport } from "../ports";
import { roomUntilLow } from "../space";

/** A peer that takes longer to say what room it has is left out. */
const ANSWER_MS = 500;

/** Bytes of those that answer in time, in no order. Never rejects: who does not answer is looked after elsewhere. */
export async function askForRooms(
  clock: Clock,
  transport: PeerTransport,
  peers: readonly PeerId[],
): Promise<readonly number[]> {
  const answers = await Promise.all(peers.map((peer) => askForRoom(clock, transport, peer)));
  return answers.filter((room) => room !== undefined);
}

function askForRoom(clock: Clock, transport: PeerTransport, peer: PeerId): Promise<number | undefined> {
  return within(
    clock,
    ANSWER_MS,
    transport.statistics(peer).then(roomUntilLow, () => undefined),
  );
}
