/** `torus ctl init`: makes a cluster in empty metadata. */
import { parseSize } from "../../base";
import { createRing } from "../../ring";
import { leaf, metaArgs, UsageError, withMetadata } from "../cli";
import { outputArgs, outputStyle, renderJson } from "../output";

const BLOCK_SIZE_DEFAULT = "512KiB";
/** The layers a block passes through that exist today. */
const BLOCK_SPEC = "crc,base";

export const initCommand = leaf({
  name: "init",
  description: "Initialise a cluster in empty metadata",
  examples: ["torus ctl init --meta etcd://10.0.0.1:2379", "torus ctl init --block-size 1MiB"],
  args: {
    "block-size": {
      type: "string",
      description: `Largest block (default ${BLOCK_SIZE_DEFAULT})`,
      valueHint: "SIZE",
    },
    "block-spec": {
      type: "string",
      description: `Layers of a block (default ${BLOCK_SPEC})`,
      valueHint: "LIST",
    },
    "no-ring": {
      type: "boolean",
      description: "Leave the ring empty: auto-joining peers are not added until one is",
    },
    view: { type: "boolean", description: "Only show what would be written" },
    json: outputArgs.json,
    ...metaArgs,
  },
  async run(args) {
    const blockSizeBytes = parseSize(args["block-size"] ?? BLOCK_SIZE_DEFAULT);
    const blockSpec = args["block-spec"] ?? BLOCK_SPEC;
    if (blockSpec !== BLOCK_SPEC)
      throw new UsageError(`Cannot use --block-spec ${blockSpec}: this version makes "${BLOCK_SPEC}" only`);
    const { version: _, ...ring } = createRing({ type: "empty", replication: 1, members: [] });
    const style = outputStyle(args);
    if (args.view) {
      process.stdout.write(renderJson({ blockSizeBytes, blockSpec, ring }));
      return;
    }
    await withMetadata(
      args,
      async ({ settings }) => {
        const made = await settings.init({ blockSizeBytes, blockSpec, ring });
        if (style.format === "json") process.stdout.write(renderJson(made));
        else console.log(`Initialised cluster ${made.clusterId}`);
      },
      { make: true },
    );
  },
});
