/** Who a peer is: a UUID made once and kept in its data directory. */
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parsePeerId, type PeerId } from "../../base";
import { systemRandom } from "../../base/io";
import { CommandError } from "../cli";

const FILE_NAME = "peer-id";

/** Reads the id, or makes one; a file that holds something else is an error, never overwritten. */
export async function peerIdentity(dataDirectory: string): Promise<PeerId> {
  const path = join(dataDirectory, FILE_NAME);
  try {
    return parsePeerId((await readFile(path, "utf8")).trim());
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT")
      throw new CommandError(
        "config",
        `Cannot read ${path}: ${error instanceof Error ? error.message : error}`,
        error,
      );
  }
  const peerId = parsePeerId(systemRandom.uuid());
  await mkdir(dataDirectory, { recursive: true });
  // The store's own superblock holds the id too and is what counts; a torn file here must still not happen.
  await writeFile(`${path}.tmp`, `${peerId}\n`, { flush: true });
  await rename(`${path}.tmp`, path);
  return peerId;
}
