/** An EventLoop on the test's own thread, ended when the test's body is. */
import { EventLoop, SocketNetwork, type SocketNetworkOptions } from "../../src/base/io";

/** Short enough that the runtime's timers (a test's timeout) still fire. */
const BLOCK_MS = 5;

export async function withLoop<T>(
  body: (loop: EventLoop, network: SocketNetwork) => Promise<T>,
  options: SocketNetworkOptions = {},
): Promise<T> {
  const loop = new EventLoop({ blockMsMax: BLOCK_MS });
  const network = new SocketNetwork(loop, options);
  const running = loop.run();
  try {
    return await Promise.race([
      body(loop, network),
      running.then(() => Promise.reject(new Error("the loop ended before the test"))),
    ]);
  } finally {
    network.closeAll("the test is over");
    loop.stop();
    await running.catch(() => {});
  }
}

/** Resolves once `condition` holds, looking every turn of the loop; rejects after `timeoutMs`. */
export function until(
  loop: EventLoop,
  what: string,
  condition: () => boolean,
  timeoutMs = 4000,
): Promise<void> {
  const deadlineMs = loop.nowMs() + timeoutMs;
  return new Promise((resolve, reject) => {
    const look = () => {
      if (condition()) resolve();
      else if (loop.nowMs() > deadlineMs) reject(new Error(`never happened: ${what}`));
      else loop.schedule(1, look);
    };
    look();
  });
}
