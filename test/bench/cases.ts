/**
 * What is measured: fio's nbd engine, one job, on a volume whose first GiB was written beforehand. A write case ends
 * with a flush that its time includes, so that nothing is counted that is not durable.
 */
export interface BenchCase {
  readonly id: string;
  readonly title: string;
  readonly unit: "IOPS" | "MB/s";
  readonly direction: "read" | "write";
  readonly options: Readonly<Record<string, string | number>>;
  /** Whether the target must start with cold caches of its own. */
  readonly coldCache: boolean;
  /** Seconds of its own instead of the run's. */
  readonly seconds?: number;
  /** Bytes of the volume that it uses, in GiB; more than 1 needs targets of its own. */
  readonly sizeGib: number;
  /** Runs only when it is named. */
  readonly onDemand?: boolean;
}

const write4k = { rw: "randwrite", bs: "4k", end_fsync: 1 };
const read4k = { rw: "randread", bs: "4k" };

export const CASES: readonly BenchCase[] = [
  {
    id: "write-fsync",
    title: "4k random write, depth 1, fsync each",
    unit: "IOPS",
    direction: "write",
    options: { ...write4k, iodepth: 1, fsync: 1 },
    coldCache: false,
    sizeGib: 1,
  },
  {
    id: "write-fsync16",
    title: "4k random write, depth 16, fsync every 16",
    unit: "IOPS",
    direction: "write",
    options: { ...write4k, iodepth: 16, fsync: 16 },
    coldCache: false,
    sizeGib: 1,
  },
  {
    id: "write16",
    title: "4k random write, depth 16, fsync at the end",
    unit: "IOPS",
    direction: "write",
    options: { ...write4k, iodepth: 16 },
    coldCache: false,
    sizeGib: 1,
  },
  {
    id: "write16-60s",
    title: "4k random write, depth 16, 60 s over 4 GiB, fsync at the end",
    unit: "IOPS",
    direction: "write",
    options: { ...write4k, iodepth: 16 },
    coldCache: false,
    seconds: 60,
    sizeGib: 4,
    onDemand: true,
  },
  {
    id: "read1",
    title: "4k random read, depth 1, cold cache",
    unit: "IOPS",
    direction: "read",
    options: { ...read4k, iodepth: 1 },
    coldCache: true,
    sizeGib: 1,
  },
  {
    id: "read16",
    title: "4k random read, depth 16, cold cache",
    unit: "IOPS",
    direction: "read",
    options: { ...read4k, iodepth: 16 },
    coldCache: true,
    sizeGib: 1,
  },
  {
    id: "write1m",
    title: "1 MiB sequential write, depth 4",
    unit: "MB/s",
    direction: "write",
    options: { rw: "write", bs: "1m", iodepth: 4, end_fsync: 1 },
    coldCache: false,
    sizeGib: 1,
  },
  {
    id: "read1m",
    title: "1 MiB sequential read, depth 4",
    unit: "MB/s",
    direction: "read",
    options: { rw: "read", bs: "1m", iodepth: 4 },
    coldCache: true,
    sizeGib: 1,
  },
];

/** The cases named, in their order of the table; every one that is not on demand when none is named. */
export function selectCases(names: readonly string[]): readonly BenchCase[] {
  const unknown = names.filter((name) => !CASES.some((one) => one.id === name));
  if (unknown.length > 0)
    throw new Error(
      `Unknown case ${unknown.join(", ")}: the cases are ${CASES.map((one) => one.id).join(", ")}`,
    );
  return CASES.filter((one) => (names.length === 0 ? one.onDemand !== true : names.includes(one.id)));
}
