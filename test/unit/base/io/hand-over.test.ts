import { expect, test } from "bun:test";
import { C, EventLoop, libc, must, nativeBuffer, SocketNetwork } from "../../../../src/base/io";

async function onLoop(use: (network: SocketNetwork, pair: [number, number]) => Promise<void>): Promise<void> {
  const loop = new EventLoop({ blockMsMax: 5 });
  const network = new SocketNetwork(loop);
  const sockets = new Int32Array(2);
  must("make a pair", libc.socketpair(C.AF_UNIX, C.SOCK_STREAM | C.SOCK_CLOEXEC, sockets));
  const running = loop.run();
  try {
    await use(network, [sockets[0] as number, sockets[1] as number]);
  } finally {
    libc.close(sockets[1] as number);
    network.closeAll("over");
    loop.stop();
    await running;
  }
}

const scratch = nativeBuffer(1024 * 1024);

test("handOver gives the descriptor away once all output has left, and tells the handler nothing more", () =>
  onLoop(async (network, [ours, theirs]) => {
    const events: string[] = [];
    const output = new Uint8Array(600_000).fill(7);
    const taken = new Promise<number>((resolve) => {
      network.adopt(ours, "test", (connection) => {
        connection.write(output, 0, output.length);
        connection.handOver?.(resolve);
        return {
          onData: (_buffer, start, end) => {
            events.push("data");
            return end - start;
          },
          onReceived: () => events.push("received"),
          onClose: () => events.push("close"),
        };
      });
    });
    let receivedBytes = 0;
    while (receivedBytes < output.length) {
      const count = libc.recv(theirs, scratch.address, scratch.bytes.length, C.MSG_DONTWAIT);
      if (count > 0) receivedBytes += count;
      else await Bun.sleep(1);
    }
    const socket = await taken;
    expect(socket).toBe(ours);
    // It is open, and what came meanwhile is still in it for whoever has it now.
    scratch.bytes.set([1, 2, 3]);
    must("send", libc.send(theirs, scratch.address, 3, C.MSG_NOSIGNAL));
    expect(libc.recv(socket, scratch.address, 16, C.MSG_DONTWAIT)).toBe(3);
    expect(network.statistics.connectionCount).toBe(0);
    expect(events).toEqual([]);
    libc.close(socket);
  }));

test("handOver of a connection that ends before its output left is a close", () =>
  onLoop(async (network, [ours, theirs]) => {
    const output = new Uint8Array(4_000_000);
    let given = false;
    const closed = new Promise<string | undefined>((resolve) => {
      network.adopt(ours, "test", (connection) => {
        connection.write(output, 0, output.length);
        connection.handOver?.(() => {
          given = true;
        });
        return { onData: (_buffer, start, end) => end - start, onReceived: () => {}, onClose: resolve };
      });
    });
    libc.shutdown(theirs, 2);
    expect(await closed).toBeDefined();
    expect(given).toBe(false);
  }));
