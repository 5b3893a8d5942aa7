/** One side of the adp benchmark, as a loop worker: a peer with a MemoryService, or a client that measures. */
import {
  asEpoch,
  asVolumeId,
  BlockKind,
  type BlockRef,
  type ClusterId,
  type Incarnation,
  type PeerId,
} from "../../src/base";
import {
  nativeBuffer,
  runLoopWorker,
  type SocketNetwork,
  systemRandom,
  type EventLoop,
} from "../../src/base/io";
import {
  BlockBuilder,
  blockBufferBytes,
  HEADER_BYTES_MAX,
  makeBlockSealer,
  PAGE_BYTES,
  type SealedBlock,
} from "../../src/engine/block";
import {
  type OutgoingPut,
  type OutgoingRead,
  type ServicePut,
  type ServiceRead,
  StorageStatus,
} from "../../src/engine/ports";
import { AdpClient, AdpServer } from "../../src/net/adp";
import { MemoryService } from "../support/memory-service";

const clusterId = "0f0e0d0c-0b0a-4900-8807-060504030201" as ClusterId;
const BLOCK_SIZE = 512 * 1024;
const BLOCK_BYTES_MAX = HEADER_BYTES_MAX + BLOCK_SIZE;
const peerOf = (index: number) => `11111111-2222-4333-8444-00000000000${index}` as PeerId;

/** Keeps nothing and checks nothing: what is measured is the wire. Reads answer from one lent megabyte. */
class NullService extends MemoryService {
  readonly #bytes = nativeBuffer(1024 * 1024);

  override put(request: ServicePut): void {
    request.done(StorageStatus.ok);
  }

  override read(request: ServiceRead): void {
    request.done(StorageStatus.ok, this.#bytes, 0, request.slotCount * PAGE_BYTES, 0, nothing);
  }
}
const nothing = () => {};

export type BenchData =
  | { readonly role: "peer"; readonly index: number; readonly address: string }
  | { readonly role: "client" };

export interface BenchCase {
  readonly kind: "put" | "read";
  readonly pages: number;
  readonly depth: number;
  readonly addresses: readonly string[];
  readonly durationMs: number;
}

export interface BenchResult {
  readonly requests: number;
  readonly elapsedMs: number;
  readonly cpuMs: number;
  readonly sendCalls: number;
  readonly receiveCalls: number;
  readonly turns: number;
}

const sealer = makeBlockSealer(clusterId);

function sealedBlock(index: number, pages: number): SealedBlock {
  const builder = new BlockBuilder(nativeBuffer(blockBufferBytes(BLOCK_SIZE)), BLOCK_SIZE);
  builder.addPages(0, pages);
  return builder.seal(sealer, refOf(index));
}

function refOf(index: number): BlockRef {
  return { kind: BlockKind.data, volumeId: asVolumeId(1), epoch: asEpoch(1), index };
}

function run(loop: EventLoop, network: SocketNetwork, one: BenchCase): Promise<BenchResult> {
  const peers = one.addresses.map((_, index) => peerOf(index));
  const client = new AdpClient({
    network,
    clock: loop,
    turns: loop,
    random: systemRandom,
    allocate: nativeBuffer,
    clusterId,
    blockBytesMax: BLOCK_BYTES_MAX,
    locate: (peer) => one.addresses[peers.indexOf(peer)],
    requestTimeoutMs: 2000,
    controlTimeoutMs: 2000,
    connectTimeoutMs: 1000,
  });
  return new Promise((resolve, reject) => {
    let requests = 0;
    let startMs = 0;
    let busy = 0;
    let over = false;
    const before = { cpu: process.cpuUsage(), ...network.statistics, turns: loop.turnCount };
    const finished = () => {
      if (--busy > 0) return;
      const cpu = process.cpuUsage(before.cpu);
      const { sendCalls, receiveCalls } = network.statistics;
      client.close();
      resolve({
        requests,
        elapsedMs: loop.nowMs() - startMs,
        cpuMs: (cpu.user + cpu.system) / 1000,
        sendCalls: sendCalls - before.sendCalls,
        receiveCalls: receiveCalls - before.receiveCalls,
        turns: loop.turnCount - before.turns,
      });
    };
    const startPut = (at: number) => {
      const block = sealedBlock(at + 1, one.pages);
      let left = 0;
      const put: OutgoingPut = {
        buffer: block.buffer,
        offset: block.offset,
        lengthBytes: block.lengthBytes,
        writerEpoch: 1,
        done: (_peer, _incarnation, status) => {
          if (status !== StorageStatus.ok) return reject(new Error(`status ${status}`));
          if (--left > 0) return;
          requests++;
          if (over) finished();
          else send();
        },
      };
      const send = () => {
        left = peers.length;
        for (const peer of peers) client.put(peer, put);
      };
      send();
    };
    const startRead = (at: number) => {
      const peer = peers[at % peers.length] as PeerId;
      const read: OutgoingRead = {
        ref: refOf(1),
        firstSlot: 0,
        slotCount: one.pages,
        destination: nativeBuffer(one.pages * PAGE_BYTES),
        destinationOffset: 0,
        done: (_peer, status) => {
          if (status !== StorageStatus.ok) return reject(new Error(`status ${status}`));
          requests++;
          if (over) finished();
          else client.read(peer, read);
        },
      };
      client.read(peer, read);
    };
    startMs = loop.nowMs();
    loop.schedule(one.durationMs, () => {
      over = true;
    });
    for (let at = 0; at < one.depth; at++) {
      busy++;
      if (one.kind === "put") startPut(at);
      else startRead(at);
    }
  });
}

runLoopWorker(async (data: BenchData, { loop, network }) => {
  let address = "";
  if (data.role === "peer") {
    const identity = {
      clusterId,
      peerId: peerOf(data.index),
      incarnation: "00000000000000aa" as Incarnation,
    };
    const server = new AdpServer({
      service: new NullService(identity, nativeBuffer),
      network,
      clock: loop,
      allocate: nativeBuffer,
      blockBytesMax: BLOCK_BYTES_MAX,
      onServiceError: (error) => {
        throw error;
      },
    });
    address = server.listen(data.address).address;
  }
  return {
    methods: { address: async () => address, run: (one: BenchCase) => run(loop, network, one) },
    close: async () => {},
  };
});
