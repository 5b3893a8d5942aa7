/** `torus blk nbdserve`: volumes as NBD exports of this machine. */
import { parseDuration, type TorusError } from "../../base";
import { leaf, metaArgs } from "../cli";
import { httpArgs, startClient, volumeArgs } from "../client";

const LISTEN_DEFAULT = "127.0.0.1:10809";

export const nbdserveCommand = leaf({
  name: "nbdserve",
  description: "Serve volumes over NBD; without names, every volume and snapshot, opened when a client asks",
  examples: [
    "torus blk nbdserve data",
    "torus blk nbdserve --listen unix:/run/torus/nbd.sock data logs",
    "torus blk nbdserve --listen 0.0.0.0:10809",
  ],
  args: {
    listen: {
      type: "string",
      description: `HOST:PORT or unix:PATH (default ${LISTEN_DEFAULT})`,
      valueHint: "ADDRESS",
    },
    ...volumeArgs,
    ...httpArgs,
    ...metaArgs,
  },
  variadic: "VOLUME...",
  async run(args, names) {
    let stop: (failure: TorusError | undefined) => void = () => {};
    const ended = new Promise<TorusError | undefined>((resolve) => {
      stop = resolve;
    });
    const waitForLockMs = args.wait === undefined ? undefined : parseDuration(args.wait);
    const client = await startClient(args, waitForLockMs, stop);
    const signals = ["SIGTERM", "SIGINT"] as const;
    const onSignal = (signal: NodeJS.Signals) => {
      client.logger.log("info", `Stopping on ${signal}: detaching`);
      stop(undefined);
    };
    for (const signal of signals) process.once(signal, onSignal);
    try {
      const { addresses } = await client.plane.openFrontEnd({
        listen: [args.listen ?? LISTEN_DEFAULT],
        only: names.length === 0 ? undefined : names,
        keepOpen: names.filter((name) => !name.includes("@")),
      });
      for (const address of addresses) client.logger.log("info", `Serving ${uriOf(address, names[0])}`);
      const failure = await ended;
      if (failure !== undefined) throw failure;
    } finally {
      await client.close();
    }
  },
});

/** What to give a client. */
function uriOf(address: string, name = ""): string {
  return address.startsWith("unix:")
    ? `nbd+unix:///${name}?socket=${address.slice("unix:".length)}`
    : `nbd://${address}/${name}`;
}
