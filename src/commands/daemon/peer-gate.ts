/** TLS in front of the block service: adp clients go to the store's thread, Connect's to the HTTP server behind. */
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { libc } from "../../base/io";
import { TlsGate, type TlsIdentity } from "../../net/tls";
import type { DataPlane } from "../data-plane";
import { hostOf } from "./http";
import { startPeerHttpServer } from "./peer-http";

export interface PeerGateOptions {
  readonly protocol: "adp" | "http";
  /** `host:port`; the host is numeric. */
  readonly listen: string;
  readonly identity: TlsIdentity;
  readonly plane: DataPlane;
  readonly privateDirectory: string;
  readonly log: (level: "warn" | "error", message: string) => void;
}

export interface PeerGate {
  /** `host:port` that was bound. */
  readonly address: string;
  renew(identity: TlsIdentity): void;
  stop(): Promise<void>;
}

/** Throws "listen-failed". */
export function openPeerGate(options: PeerGateOptions): PeerGate {
  const { plane, log } = options;
  const shared = {
    address: options.listen,
    identity: options.identity,
    onRefused: (remote: string, reason: string) => log("warn", `Turned ${hostOf(remote)} away: ${reason}`),
  };
  if (options.protocol === "adp") {
    const gate = new TlsGate({
      ...shared,
      onClient: ({ socket, remote }) => {
        plane.adoptClient({ socket, remote }).catch((error: unknown) => {
          libc.close(socket);
          log("error", `Cannot serve ${remote}: ${error instanceof Error ? error.message : String(error)}`);
        });
      },
    });
    return {
      address: gate.address,
      renew: (next) => gate.renew(next),
      stop: async () => gate.close(),
    };
  }
  const directory = mkdtempSync(join(options.privateDirectory, ".peer-"));
  const path = join(directory, "connect");
  const server = startPeerHttpServer({ unix: path }, plane);
  const gate = new TlsGate({ ...shared, onClient: () => undefined, routeTo: () => path });
  return {
    address: gate.address,
    renew: (next) => gate.renew(next),
    stop: async () => {
      gate.close();
      await server.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
