/** TLS in front of the block service: adp clients go to the store's thread, Connect's to the HTTP server behind. */
import { libc } from "../../base/io";
import { TlsGate, type TlsIdentity } from "../../net/tls";
import type { DataPlane } from "../data-plane";
import { CallerServers } from "./caller-servers";
import { hostOf } from "./http";
import { startPeerHttpServer } from "./peer-http";
import { roleOf } from "./roles";

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
      onClient: ({ socket, remote, commonName, organization }) => {
        // Access lists are about clients.
        const client = roleOf(organization) === "client" ? commonName : undefined;
        plane.adoptClient({ socket, remote, client }).catch((error: unknown) => {
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
  const servers = new CallerServers(options.privateDirectory, ".peer-", (unix, { role, name }) =>
    startPeerHttpServer(
      { unix },
      plane,
      (message) => log("warn", message),
      role === "client" ? name : undefined,
    ),
  );
  try {
    const gate = new TlsGate({
      ...shared,
      onClient: () => undefined,
      routeTo: (subject) => servers.pathFor(subject),
    });
    return {
      address: gate.address,
      renew: (next) => gate.renew(next),
      stop: async () => {
        gate.close();
        await servers.stop();
      },
    };
  } catch (error) {
    void servers.stop();
    throw error;
  }
}
