/** A gRPC client of a CSI driver on a unix socket, as an orchestrator has it. */
import { connect as connectSocket } from "node:net";
import { type Client, Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Controller, Identity, Node } from "../../src/blockdev/csi/gen/csi_pb";

export interface CsiClient {
  readonly identity: Client<typeof Identity>;
  readonly controller: Client<typeof Controller>;
  readonly node: Client<typeof Node>;
}

export function csiClient(socketPath: string): CsiClient {
  const transport = createGrpcTransport({
    baseUrl: "http://localhost",
    nodeOptions: { createConnection: () => connectSocket(socketPath) },
    defaultTimeoutMs: 120_000,
  });
  return {
    identity: createClient(Identity, transport),
    controller: createClient(Controller, transport),
    node: createClient(Node, transport),
  };
}

/** The gRPC code of a call that must fail, and what it says. */
export async function failure(call: Promise<unknown>): Promise<{ code: string; message: string }> {
  try {
    await call;
  } catch (error) {
    if (error instanceof ConnectError) return { code: Code[error.code] ?? "", message: error.rawMessage };
    throw error;
  }
  throw new Error("the call did not fail");
}
