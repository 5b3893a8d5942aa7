/** Peers are asked for their room: who fails or stays silent is left out, and nobody waits for long. */
import { expect, test } from "bun:test";
import { parsePeerId } from "../../../../src/base";
import type { PeerStatistics, PeerTransport } from "../../../../src/engine/ports";
import { finishingReserveBytes } from "../../../../src/engine/space";
import { askForRooms } from "../../../../src/engine/volume/peer-rooms";
import { VirtualClock } from "../../../support/virtual-clock";

const MIB = 1024 * 1024;
const CAPACITY_BYTES = 1024 * MIB;
const [roomy, low, failing, silent] = [1, 2, 3, 4].map((last) =>
  parsePeerId(`00000000-0000-4000-8000-00000000000${last}`),
) as [ReturnType<typeof parsePeerId>, ...ReturnType<typeof parsePeerId>[]];

test("only who answers within half a second counts", async () => {
  const clock = new VirtualClock();
  const usedBytes = new Map([
    [roomy, CAPACITY_BYTES - finishingReserveBytes(CAPACITY_BYTES) - 7 * MIB],
    [low, CAPACITY_BYTES - MIB],
  ]);
  const transport = {
    statistics: (peer: typeof roomy) => {
      if (peer === silent) return new Promise<never>(() => {});
      if (peer === failing) return Promise.reject(new Error("it is away"));
      return Promise.resolve({
        capacityBytes: CAPACITY_BYTES,
        usedBytes: usedBytes.get(peer),
      } as PeerStatistics);
    },
  } as unknown as PeerTransport;
  expect(await askForRooms(clock, transport, [])).toEqual([]);
  expect(await askForRooms(clock, transport, [roomy, low, failing] as (typeof roomy)[])).toEqual([
    7 * MIB,
    0,
  ]);
  let rooms: readonly number[] | undefined;
  const asked = askForRooms(clock, transport, [silent, roomy] as (typeof roomy)[]).then((found) => {
    rooms = found;
  });
  clock.advance(400);
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
  expect(rooms).toBeUndefined();
  clock.advance(200);
  await asked;
  expect(rooms).toEqual([7 * MIB]);
});
