/**
 * A short measurement of an open volume on the data path's own thread, as a front end would use it: so many requests
 * under way, random or in a row, each flushed or not. It ends with its time or with its bytes, whichever is first, so
 * that a fast volume does not fill the pool.
 */
import type { Clock } from "../../base";
import { BufferPool, nativeBuffer, systemRandom } from "../../base/io";
import { type BlockDevice, DeviceStatus } from "../../blockdev";
import type { BenchFigures, BenchLoad } from "./worker-api";

/** After so many requests in a row that did not wait for anybody, the loop gets a turn for its sockets and timers. */
const REQUESTS_A_TURN = 32;

/** Runs the load; rejects with `failed(status)` at the first request that fails. */
export async function measureDevice(
  device: BlockDevice,
  load: BenchLoad,
  clock: Clock,
  failed: (status: DeviceStatus) => Error,
): Promise<BenchFigures> {
  const { depth, requestBytes } = load;
  const slotCount = Math.floor(Math.min(load.spanBytes, device.sizeBytes) / requestBytes);
  const requestCountMax = Math.floor(load.bytesMax / requestBytes);
  const pool = new BufferPool(requestBytes, depth, nativeBuffer);
  const latenciesMs: number[] = [];
  const startedMs = performance.now();
  let started = 0;

  const lane = async () => {
    const buffer = pool.acquire();
    if (buffer === undefined) throw new Error("a lane has no buffer");
    fillRandom(buffer.bytes);
    let inTurn = 0;
    while (started < requestCountMax && performance.now() - startedMs < load.durationMs) {
      const slot = load.isRandom ? systemRandom.nextU32() % slotCount : started % slotCount;
      started++;
      const beganMs = performance.now();
      await request(device, load, slot * requestBytes, buffer, failed);
      latenciesMs.push(performance.now() - beganMs);
      if (++inTurn % REQUESTS_A_TURN === 0) await new Promise<void>((resume) => clock.schedule(0, resume));
    }
  };
  await Promise.all(Array.from({ length: depth }, lane));
  // What was only taken into memory so far counts when it is durable.
  if (load.kind === "write") await settled((done) => device.flush(done), failed);
  const elapsedMs = performance.now() - startedMs;
  latenciesMs.sort((a, b) => a - b);
  const at = (share: number) =>
    latenciesMs[Math.min(latenciesMs.length - 1, Math.floor(latenciesMs.length * share))];
  return {
    requestCount: latenciesMs.length,
    elapsedMs,
    latencyMsMedian: at(0.5) ?? 0,
    latencyMsP99: at(0.99) ?? 0,
    latencyMsMax: latenciesMs.at(-1) ?? 0,
  };
}

async function request(
  device: BlockDevice,
  { kind, requestBytes, flushEach }: BenchLoad,
  offsetBytes: number,
  buffer: ReturnType<typeof nativeBuffer>,
  failed: (status: DeviceStatus) => Error,
): Promise<void> {
  if (kind === "read")
    return settled((done) => device.read(offsetBytes, requestBytes, buffer, 0, done), failed);
  await settled((done) => device.write(offsetBytes, requestBytes, buffer, 0, false, done), failed);
  if (flushEach) await settled((done) => device.flush(done), failed);
}

function settled(
  start: (done: (status: DeviceStatus) => void) => void,
  failed: (status: DeviceStatus) => Error,
): Promise<void> {
  return new Promise((resolve, reject) => {
    start((status) => (status === DeviceStatus.ok ? resolve() : reject(failed(status))));
  });
}

/** In pieces, as the source of randomness hands out at most 64 KiB. */
function fillRandom(bytes: Uint8Array): void {
  for (let offset = 0; offset < bytes.length; offset += 65_536)
    crypto.getRandomValues(bytes.subarray(offset, offset + 65_536));
}
