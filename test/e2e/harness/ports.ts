/**
 * Ports for servers that cannot be asked which port they took, or that must have the same one after a restart.
 * They lie below the kernel's ephemeral range, so that an outgoing connection never takes one in between.
 */
import { createServer } from "node:net";

const PORT_FIRST = 20_000;
const PORT_COUNT = 12_000;
const TRIES_MAX = 200;
const taken = new Set<number>();

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

/** A free port on loopback, never given out twice in a run. */
export async function freePort(): Promise<number> {
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    const port = PORT_FIRST + Math.floor(Math.random() * PORT_COUNT);
    if (taken.has(port) || !(await isFree(port))) continue;
    taken.add(port);
    return port;
  }
  throw new Error(`Cannot find a free port between ${PORT_FIRST} and ${PORT_FIRST + PORT_COUNT}`);
}
