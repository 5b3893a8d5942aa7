/** A scene in memory that ends with the work, and shows its logs when that fails. */
import { Scene } from "../../e2e/harness";

const TMPFS = "/dev/shm";

export async function withScene<T>(name: string, work: (scene: Scene) => Promise<T>): Promise<T> {
  const scene = new Scene(name, { parentFolder: TMPFS });
  try {
    return await work(scene);
  } catch (error) {
    scene.printLogs();
    throw error;
  } finally {
    await scene.end();
  }
}
