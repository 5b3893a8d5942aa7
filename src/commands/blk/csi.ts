/** `torus blk csi`: the Kubernetes driver. One process on each node serves its node part, one or more the controller. */
import { hostname } from "node:os";
import { join } from "node:path";
import { parseDuration, type TorusError } from "../../base";
import { systemClock } from "../../base/io";
import {
  ControllerService,
  CsiServer,
  type DeviceAttacher,
  identityService,
  NodeService,
  parseEndpoint,
} from "../../blockdev/csi";
import { leaf, metaArgs, UsageError } from "../cli";
import { type Client, startClient, volumeArgs } from "../client";
import { buildInfo } from "../executable";
import { FuseAttacher } from "./csi-fuse";
import { KernelAttacher } from "./csi-kernel";
import { MetadataVolumes } from "./csi-volumes";

const STATE_FOLDER_DEFAULT = "/var/lib/torus/csi";

async function makeAttacher(client: Client, method: string, stateFolder: string): Promise<DeviceAttacher> {
  if (method === "fuse") return FuseAttacher.start(client, join(stateFolder, "fuse"));
  return new KernelAttacher(client);
}

export const csiCommand = leaf({
  name: "csi",
  description: "Serve the Container Storage Interface for Kubernetes; see scripts/kubernetes",
  examples: [
    "torus blk csi --endpoint unix:///csi/csi.sock --meta etcd://etcd:2379",
    "torus blk csi --endpoint unix:///csi/csi.sock --parts controller",
  ],
  args: {
    endpoint: { type: "string", description: "Unix socket to listen on", valueHint: "unix:///PATH" },
    "node-id": {
      type: "string",
      description: "Name of this node (default: its host name)",
      valueHint: "NAME",
    },
    parts: {
      type: "enum",
      options: ["all", "controller", "node"],
      description: "Which services (default all)",
    },
    "state-dir": {
      type: "string",
      description: `Where the node part remembers what is staged (default ${STATE_FOLDER_DEFAULT})`,
      valueHint: "DIR",
    },
    attach: {
      type: "enum",
      options: ["nbd", "fuse"],
      description:
        "How volumes become devices: the kernel's nbd driver (default), or nbdfuse to try it without",
    },
    ...volumeArgs,
    ...metaArgs,
  },
  async run(args) {
    const { endpoint } = args;
    if (endpoint === undefined)
      throw new UsageError("Give --endpoint, for example unix:///run/torus/csi.sock");
    parseEndpoint(endpoint);
    const { promise: ended, resolve: stop } = Promise.withResolvers<TorusError | undefined>();
    const client = await startClient(
      args,
      args.wait === undefined ? undefined : parseDuration(args.wait),
      stop,
    );
    const { logger } = client;
    for (const signal of ["SIGTERM", "SIGINT"] as const)
      process.once(signal, () => {
        logger.log("info", `Stopping on ${signal}`);
        stop(undefined);
      });
    let server: CsiServer | undefined;
    let node: NodeService | undefined;
    try {
      const volumes = new MetadataVolumes(client);
      const stateFolder = args["state-dir"] ?? STATE_FOLDER_DEFAULT;
      if (args.parts !== "controller") {
        node = new NodeService({
          nodeId: args["node-id"] ?? hostname(),
          volumes,
          attacher: await makeAttacher(client, args.attach ?? "nbd", stateFolder),
          stateFolder: join(stateFolder, "staged"),
          clock: systemClock,
          onEvent: (level, message) => logger.log(level, message),
        });
        await node.recover();
      }
      server = await CsiServer.start({
        endpoint,
        identity: identityService(buildInfo.version, volumes),
        controller: args.parts === "node" ? undefined : new ControllerService(volumes).implementation(),
        node: node?.implementation(),
        onEvent: (level, message) => logger.log(level, message),
      });
      logger.log("info", `Serving CSI on unix://${server.path}`);
      const failure = await ended;
      if (failure !== undefined) throw failure;
    } finally {
      node?.close();
      await server?.close();
      await client.close();
    }
  },
});
