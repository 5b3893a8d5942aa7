/** The figures of the data path in Prometheus's text form. */
import type { DataPlaneStatus } from "../data-plane";

interface Sample {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge";
  readonly value: number;
}

function samples(status: DataPlaneStatus): Sample[] {
  const list: Sample[] = [];
  const add = (name: string, type: Sample["type"], help: string, value: number) =>
    list.push({ name: `torus_${name}`, type, help, value });
  add("loop_turns_total", "counter", "Turns of the data path's event loop", status.turnCount);
  if (status.storage !== undefined) {
    const { peer, store, server } = status.storage;
    add("store_capacity_bytes", "gauge", "Bytes blocks can take", peer.capacityBytes);
    add("store_used_bytes", "gauge", "Bytes blocks take", peer.usedBytes);
    add("store_blocks", "gauge", "Blocks held", peer.blockCount);
    add("store_suspect_blocks", "gauge", "Blocks whose bytes failed their checksum", peer.suspectCount);
    add("store_syncs_total", "counter", "Syncs of the disk", store.syncCount);
    add("peer_received_bytes_total", "counter", "Bytes of blocks received", server.putBytes);
    add("peer_sent_bytes_total", "counter", "Bytes of blocks sent", server.readBytes);
    add("peer_puts_total", "counter", "Blocks received", server.putCount);
    add("peer_reads_total", "counter", "Reads served", server.readCount);
  }
  if (status.nbd !== undefined) {
    add("nbd_connections", "gauge", "NBD connections open", status.nbd.connectionsOpen);
    add("nbd_read_bytes_total", "counter", "Bytes read by NBD clients", status.nbd.readBytes);
    add("nbd_written_bytes_total", "counter", "Bytes written by NBD clients", status.nbd.writtenBytes);
    add("nbd_errors_total", "counter", "NBD requests answered with an error", status.nbd.errorCount);
  }
  return list;
}

export function renderMetrics(status: DataPlaneStatus): string {
  return samples(status)
    .map(
      ({ name, help, type, value }) => `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${name} ${value}\n`,
    )
    .join("");
}
