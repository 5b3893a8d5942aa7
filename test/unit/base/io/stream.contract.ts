/** What every StreamNetwork must do; run over real sockets, over TLS and over the memory network. */
import { expect, test } from "bun:test";
import type { Clock, NativeBuffer, Random } from "../../../../src/base";
import {
  nativeBuffer,
  type StreamConnection,
  type StreamHandler,
  type StreamNetwork,
} from "../../../../src/base/io";

export interface StreamHarness {
  readonly network: StreamNetwork;
  readonly clock: Clock;
  readonly random: Random;
  /** The other side's end closes a connection that is paused, too, and what that has not read is lost. */
  readonly endsPaused?: boolean;
  until(what: string, condition: () => boolean): Promise<void>;
}

/** A frame is u32 length, u32 sum of its bytes, body. */
const HEADER_BYTES = 8;
const INLINE_BYTES_MAX = 64 * 1024;

function sumOf(bytes: Uint8Array): number {
  return Bun.hash.crc32(bytes);
}

/** Sends frames in every way there is, receives them in every way there is, pausing at random. */
class FramePeer implements StreamHandler {
  readonly received: number[] = [];
  closedReason: string | undefined | null = null;
  lentOutstanding = 0;
  #body: NativeBuffer | undefined;
  #bodyBytes = 0;
  #bodySum = 0;
  #pieceEnd = 0;

  constructor(
    readonly connection: StreamConnection,
    private readonly harness: StreamHarness,
  ) {}

  send(body: Uint8Array): void {
    const { random } = this.harness;
    const header = this.connection.reserve(HEADER_BYTES);
    header.buffer.view.setUint32(header.offset, body.length, true);
    header.buffer.view.setUint32(header.offset + 4, sumOf(body), true);
    if (body.length === 0) return;
    if (random.nextU32() % 2 === 0) return this.connection.write(body, 0, body.length);
    const lent = nativeBuffer(body.length + 3);
    lent.bytes.set(body, 3);
    this.lentOutstanding++;
    this.connection.writeLent(lent, 3, body.length, () => {
      this.lentOutstanding--;
      lent.bytes.fill(0xee);
    });
  }

  onData(buffer: NativeBuffer, start: number, end: number): number {
    const { random } = this.harness;
    let position = start;
    while (end - position >= HEADER_BYTES) {
      const lengthBytes = buffer.view.getUint32(position, true);
      const sum = buffer.view.getUint32(position + 4, true);
      const bodyStart = position + HEADER_BYTES;
      if (lengthBytes > INLINE_BYTES_MAX || random.nextU32() % 3 === 0) {
        this.#body = nativeBuffer(lengthBytes + 8);
        this.#bodyBytes = lengthBytes;
        this.#bodySum = sum;
        this.#receivePiece(0);
        return bodyStart - start;
      }
      if (end - bodyStart < lengthBytes) break;
      this.#take(buffer.bytes.subarray(bodyStart, bodyStart + lengthBytes), sum);
      position = bodyStart + lengthBytes;
      if (this.#maybePause()) break;
    }
    return position - start;
  }

  onReceived(): void {
    if (this.#pieceEnd < this.#bodyBytes) return this.#receivePiece(this.#pieceEnd);
    const body = this.#body as NativeBuffer;
    this.#take(body.bytes.subarray(8, 8 + this.#bodyBytes), this.#bodySum);
    this.#maybePause();
  }

  onClose(reason: string | undefined): void {
    expect(this.closedReason).toBeNull();
    this.closedReason = reason;
  }

  /** A body comes in one piece or two. */
  #receivePiece(from: number): void {
    const left = this.#bodyBytes - from;
    const lengthBytes = from === 0 && left > 1 && this.harness.random.nextU32() % 2 === 0 ? left >> 1 : left;
    this.#pieceEnd = from + lengthBytes;
    this.connection.receiveInto(this.#body as NativeBuffer, 8 + from, lengthBytes);
  }

  #take(body: Uint8Array, sum: number): void {
    expect(sumOf(body)).toBe(sum);
    this.received.push(sum);
  }

  #maybePause(): boolean {
    if (this.harness.endsPaused || this.harness.random.nextU32() % 8 !== 0) return false;
    this.connection.pause();
    this.harness.clock.schedule(this.harness.random.nextU32() % 2, () => this.connection.resume());
    return true;
  }
}

function randomBody(random: Random): Uint8Array {
  const limits = [1, 20, 5000, 70_000, 1_200_000];
  const limit = limits[random.nextU32() % limits.length] as number;
  const body = new Uint8Array(random.nextU32() % limit);
  if (body.length > 0) crypto.getRandomValues(body.subarray(0, Math.min(body.length, 65536)));
  return body;
}

type WithHarness = (body: (harness: StreamHarness) => Promise<void>) => Promise<void>;

export function streamContract(name: string, address: () => string, withHarness: WithHarness): void {
  const connectPeers = async (harness: StreamHarness, listenAddress = address()) => {
    const peers: { server?: FramePeer; client?: FramePeer } = {};
    const listener = harness.network.listen(listenAddress, (connection) => {
      peers.server = new FramePeer(connection, harness);
      return peers.server;
    });
    let inside = true;
    harness.network.connect(
      listener.address,
      2000,
      (connection) => {
        expect(inside).toBe(false);
        peers.client = new FramePeer(connection, harness);
        return peers.client;
      },
      (reason) => expect(reason).toBe("nothing"),
    );
    inside = false;
    await harness.until(
      "both sides attached",
      () => peers.server !== undefined && peers.client !== undefined,
    );
    return { listener, server: peers.server as FramePeer, client: peers.client as FramePeer };
  };

  test(`${name}: frames of all sizes arrive whole and in order both ways, however split`, () =>
    withHarness(async (harness) => {
      const { listener, server, client } = await connectPeers(harness);
      const sent: Record<"server" | "client", number[]> = { server: [], client: [] };
      for (let round = 0; round < 12; round++) {
        for (const [side, peer] of [
          ["server", server],
          ["client", client],
        ] as const) {
          const count = harness.random.nextU32() % 12;
          for (let index = 0; index < count; index++) {
            const body = randomBody(harness.random);
            sent[side].push(sumOf(body));
            peer.send(body);
          }
        }
        await harness.until(
          "all frames arrived",
          () =>
            server.received.length === sent.client.length && client.received.length === sent.server.length,
        );
      }
      expect(server.received).toEqual(sent.client);
      expect(client.received).toEqual(sent.server);
      expect([server.lentOutstanding, client.lentOutstanding]).toEqual([0, 0]);
      expect([server.connection.queuedBytes, client.connection.queuedBytes]).toEqual([0, 0]);
      client.connection.end();
      await harness.until("both closed", () => server.closedReason !== null && client.closedReason !== null);
      expect([server.closedReason, client.closedReason]).toEqual([undefined, undefined]);
      listener.close();
    }));

  test(`${name}: end sends all that was queued first`, () =>
    withHarness(async (harness) => {
      const { listener, server, client } = await connectPeers(harness);
      const body = new Uint8Array(3_000_000).fill(7);
      client.send(body);
      // What the other side sent meanwhile must not turn the orderly end into a reset.
      server.send(new Uint8Array(1000));
      client.connection.end();
      await harness.until("the server saw the end", () => server.closedReason !== null);
      expect(server.received).toEqual([sumOf(body)]);
      expect(server.closedReason).toBeUndefined();
      listener.close();
    }));

  test(`${name}: lent memory comes back once when the other side dies in the middle of it`, () =>
    withHarness(async (harness) => {
      const { listener, server, client } = await connectPeers(harness);
      server.connection.pause();
      let sentCount = 0;
      const lent = nativeBuffer(24 * 1024 * 1024);
      for (let index = 0; index < 3; index++)
        client.connection.writeLent(lent, index * 8_000_000, 8_000_000, () => sentCount++);
      await harness.until("some of it left", () => client.connection.queuedBytes < 24_000_000);
      expect(client.connection.queuedBytes).toBeGreaterThan(0);
      server.connection.destroy("killed");
      expect(server.closedReason).toBe("killed");
      await harness.until("the client noticed", () => client.closedReason !== null);
      expect(sentCount).toBe(3);
      client.connection.writeLent(lent, 0, 10, () => sentCount++);
      client.connection.write(lent.bytes, 0, 10);
      client.connection.reserve(100);
      await harness.until("lent after the end came back", () => sentCount === 4);
      listener.close();
    }));

  test(`${name}: memory taken back from a body under way stays as it is, and the rest of the body comes to onData`, () =>
    withHarness(async (harness) => {
      const body = new Uint8Array(100_000).map((_, at) => 1 + at * 7);
      for (const cutBytes of [1, 40_000, 99_999]) {
        const memory = nativeBuffer(body.length);
        let taken: Uint8Array | undefined;
        const rest: number[] = [];
        let near: StreamConnection | undefined;
        const listener = harness.network.listen(address(), (connection) => {
          near = connection;
          return {
            onData: (buffer, start, end) => {
              if (taken === undefined) {
                connection.receiveInto(memory, 0, body.length);
                return 0;
              }
              rest.push(...buffer.bytes.subarray(start, end));
              return end - start;
            },
            onReceived: () => {
              throw new Error("a body that was given up is complete");
            },
            onClose: () => {},
          };
        });
        let far: StreamConnection | undefined;
        harness.network.connect(
          listener.address,
          2000,
          (connection) => {
            far = connection;
            return { onData: (_buffer, start, end) => end - start, onReceived: () => {}, onClose: () => {} };
          },
          (reason) => {
            throw new Error(reason);
          },
        );
        await harness.until("both are there", () => near !== undefined && far !== undefined);
        far?.write(body, 0, cutBytes);
        await harness.until(
          "the first part is there",
          () => sumOf(memory.bytes.subarray(0, cutBytes)) === sumOf(body.subarray(0, cutBytes)),
        );
        expect(near?.cancelReceive()).toBe(body.length - cutBytes);
        taken = memory.bytes.slice();
        far?.write(body, cutBytes, body.length);
        await harness.until("the rest came", () => rest.length === body.length - cutBytes);
        expect(Uint8Array.from(rest)).toEqual(body.slice(cutBytes));
        expect(memory.bytes).toEqual(taken);
        far?.destroy("done");
        listener.close();
      }
    }));

  test(`${name}: a handler may destroy its own connection inside onData and onReceived`, () =>
    withHarness(async (harness) => {
      for (const where of ["onData", "onReceived"]) {
        let closes = 0;
        let calls = 0;
        const listener = harness.network.listen(address(), (connection) => ({
          onData: () => {
            calls++;
            if (where === "onReceived") connection.receiveInto(nativeBuffer(64), 0, 10);
            else connection.destroy("enough");
            return 0;
          },
          onReceived: () => {
            calls++;
            connection.destroy("enough");
          },
          onClose: () => {
            closes++;
          },
        }));
        let clientClosed = false;
        harness.network.connect(
          listener.address,
          2000,
          (connection) => {
            connection.write(new Uint8Array(200_000), 0, 200_000);
            return {
              onData: (_buffer, start, end) => end - start,
              onReceived: () => {},
              onClose: () => {
                clientClosed = true;
              },
            };
          },
          (reason) => expect(reason).toBe("nothing"),
        );
        await harness.until("the client was cut off", () => clientClosed);
        expect([closes, calls]).toEqual([1, where === "onData" ? 1 : 2]);
        listener.close();
      }
    }));

  test(`${name}: onDrain runs once the queue is empty after it was above the high-water mark`, () =>
    withHarness(async (harness) => {
      const { listener, server, client } = await connectPeers(harness);
      let drains = 0;
      const drained = Object.assign(client, { onDrain: () => drains++ });
      expect(drained.connection.handler).toBe(client);
      client.connection.write(new Uint8Array(HEADER_BYTES), 0, HEADER_BYTES);
      await harness.until("a small frame arrived", () => server.received.length === 1);
      expect(drains).toBe(0);
      client.send(new Uint8Array(4_000_000));
      await harness.until("drained", () => drains === 1);
      expect(client.connection.queuedBytes).toBe(0);
      listener.close();
    }));

  test(`${name}: connecting where nobody listens fails once, later`, () =>
    withHarness(async (harness) => {
      const listener = harness.network.listen(address(), () => {
        throw new Error("nobody connects");
      });
      listener.close();
      const reasons: string[] = [];
      harness.network.connect(
        listener.address,
        1000,
        () => {
          throw new Error("connected to nobody");
        },
        (reason) => reasons.push(reason),
      );
      expect(reasons).toEqual([]);
      await harness.until("it failed", () => reasons.length > 0);
      expect(reasons.join()).toMatch(
        /^(ECONNREFUSED|ENOENT|Cannot connect to .* with TLS: Failed to connect)$/,
      );
    }));

  test(`${name}: an address in use is refused with listen-failed`, () =>
    withHarness(async (harness) => {
      const listener = harness.network.listen(address(), () => {
        throw new Error("nobody connects");
      });
      expect(() => harness.network.listen(listener.address, () => ({}) as StreamHandler)).toThrow(
        /^Cannot listen (with TLS )?on .*: it is in use/,
      );
      listener.close();
      harness.network.listen(listener.address, () => ({}) as StreamHandler).close();
      await Promise.resolve();
    }));
}
