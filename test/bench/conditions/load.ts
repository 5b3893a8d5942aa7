/** Loads that several conditions share. */
import { fio, type Scene } from "../../e2e/harness";

/** Writes all of a volume, in a row. */
export async function fill(scene: Scene, uri: string, mebibytes: number): Promise<void> {
  await fio(scene, uri, "fill", { rw: "write", bs: "1m", iodepth: 4, size: `${mebibytes}m`, end_fsync: 1 });
}

/** Writes 4 KiB pages by chance, `writtenMebibytes` in all. */
export async function scatter(
  scene: Scene,
  uri: string,
  mebibytes: number,
  writtenMebibytes: number,
): Promise<void> {
  await fio(scene, uri, "scatter", {
    ...{ rw: "randwrite", bs: "4k", iodepth: 16, end_fsync: 1, randrepeat: 0 },
    ...{ size: `${mebibytes}m`, io_size: `${writtenMebibytes}m` },
  });
}
