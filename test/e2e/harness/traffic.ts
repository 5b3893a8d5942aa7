/** Bytes on the network, as the kernel counts them per TCP connection. */
import type { Scene } from "./scene";

/** Bytes that servers listening on `ports` have received over the connections they have now. */
export async function bytesReceivedAt(scene: Scene, ports: readonly number[]): Promise<number> {
  const filter = ports.map((port) => `sport = :${port}`).join(" or ");
  const { stdout } = await scene.run([
    "ss",
    "--tcp",
    "--info",
    "--numeric",
    "--no-header",
    "state",
    "established",
    `( ${filter} )`,
  ]);
  return [...stdout.matchAll(/\bbytes_received:(\d+)/g)].reduce((sum, match) => sum + Number(match[1]), 0);
}
