/** `torus blk nbdserve`: volumes as NBD exports of this machine. */
import { parseDuration, parseSize, type TorusError } from "../../base";
import { systemClock } from "../../base/io";
import type { NbdLimits } from "../../blockdev";
import { loadTlsIdentity, type TlsFiles } from "../../net/tls";
import { leaf, metaArgs, UsageError } from "../cli";
import { httpArgs, startClient, volumeArgs } from "../client";

const LISTEN_DEFAULT = "127.0.0.1:10809";

export const nbdserveCommand = leaf({
  name: "nbdserve",
  description: "Serve volumes over NBD; without names, every volume and snapshot, opened when a client asks",
  examples: [
    "torus blk nbdserve data",
    "torus blk nbdserve --listen unix:/run/torus/nbd.sock,127.0.0.1:10809 data logs",
    "torus blk nbdserve --listen 0.0.0.0:10809 --tls-cert-file server.pem --tls-key-file server-key.pem --tls-ca-file ca.pem --tls-required",
  ],
  args: {
    listen: {
      type: "string",
      description: `HOST:PORT or unix:PATH, several with commas (default ${LISTEN_DEFAULT})`,
      valueHint: "ADDRESS,ADDRESS",
    },
    "tls-cert-file": {
      type: "string",
      description: "Certificate for clients that ask for TLS (PEM)",
      valueHint: "FILE",
    },
    "tls-key-file": { type: "string", description: "Its key (PEM)", valueHint: "FILE" },
    "tls-ca-file": {
      type: "string",
      description: "CA that the clients' certificates are signed by (PEM)",
      valueHint: "FILE",
    },
    "tls-required": { type: "boolean", description: "Serve nobody without TLS" },
    "handshake-timeout": {
      type: "string",
      description: "Close clients that have not opened an export by then (default 30s)",
      valueHint: "T",
    },
    "request-timeout": {
      type: "string",
      description: "Close clients that stop in the middle of a request for so long; 0: never (default 2m)",
      valueHint: "T",
    },
    "idle-timeout": {
      type: "string",
      description: "Close clients that ask nothing for so long (default: never)",
      valueHint: "T",
    },
    "client-memory": {
      type: "string",
      description: "Request data that one client may have in flight; at that it is paused (default 64MiB)",
      valueHint: "SIZE",
    },
    ...volumeArgs,
    ...httpArgs,
    ...metaArgs,
  },
  variadic: "[VOLUME...]",
  lists: ["listen"],
  async run(args, names) {
    let stop: (failure: TorusError | undefined) => void = () => {};
    const ended = new Promise<TorusError | undefined>((resolve) => {
      stop = resolve;
    });
    const tlsFiles = parseTlsFiles(args);
    const limits = parseLimits(args);
    const tls = tlsFiles && (await loadTlsIdentity(tlsFiles, systemClock.wallMs()));
    const waitForLockMs = args.wait === undefined ? undefined : parseDuration(args.wait);
    const client = await startClient(args, waitForLockMs, stop);
    let renew = () => {};
    const signals = ["SIGTERM", "SIGINT"] as const;
    const onSignal = (signal: NodeJS.Signals) => {
      client.logger.log("info", `Stopping on ${signal}: detaching`);
      stop(undefined);
    };
    for (const signal of signals) process.once(signal, onSignal);
    // From now on, or a reload while this starts would end it.
    const onHangUp = () => renew();
    process.on("SIGHUP", onHangUp);
    try {
      const { addresses } = await client.plane.openFrontEnd(
        {
          listen: (args.listen ?? LISTEN_DEFAULT).split(","),
          only: names.length === 0 ? undefined : names,
          keepOpen: names,
          tls: tls && (args["tls-required"] ? "required" : "offered"),
          limits,
        },
        tls,
      );
      for (const address of addresses)
        client.logger.log("info", `Serving ${uriOf(address, names[0], args["tls-required"] === true)}`);
      renew = () => {
        if (tlsFiles === undefined) return;
        loadTlsIdentity(tlsFiles, systemClock.wallMs()).then(
          (identity) => {
            client.plane.renewFrontEndTls(identity);
            client.logger.log("info", `Took the certificate of ${identity.subject} for NBD`);
          },
          (error: unknown) =>
            client.logger.log("error", error instanceof Error ? error.message : String(error)),
        );
      };
      const failure = await ended;
      if (failure !== undefined) throw failure;
    } finally {
      process.off("SIGHUP", onHangUp);
      await client.close();
    }
  },
});

function parseTlsFiles(args: {
  readonly "tls-cert-file"?: string | undefined;
  readonly "tls-key-file"?: string | undefined;
  readonly "tls-ca-file"?: string | undefined;
  readonly "tls-required"?: boolean | undefined;
}): TlsFiles | undefined {
  const certFile = args["tls-cert-file"];
  const keyFile = args["tls-key-file"];
  const caFile = args["tls-ca-file"];
  if (certFile !== undefined && keyFile !== undefined && caFile !== undefined)
    return { certFile, keyFile, caFile };
  if (certFile === undefined && keyFile === undefined && caFile === undefined && !args["tls-required"])
    return undefined;
  throw new UsageError("Give all of --tls-cert-file, --tls-key-file and --tls-ca-file");
}

function parseLimits(args: {
  readonly "handshake-timeout"?: string | undefined;
  readonly "request-timeout"?: string | undefined;
  readonly "idle-timeout"?: string | undefined;
  readonly "client-memory"?: string | undefined;
}): Partial<NbdLimits> {
  const handshake = args["handshake-timeout"];
  const request = args["request-timeout"];
  const idle = args["idle-timeout"];
  const memory = args["client-memory"];
  if (handshake !== undefined && parseDuration(handshake) === 0)
    throw new UsageError("Cannot use --handshake-timeout 0: nobody could ever connect");
  return {
    ...(handshake === undefined ? {} : { handshakeTimeoutMs: parseDuration(handshake) }),
    ...(request === undefined ? {} : { requestTimeoutMs: parseDuration(request) }),
    ...(idle === undefined ? {} : { idleTimeoutMs: parseDuration(idle) }),
    ...(memory === undefined ? {} : { clientBytesMax: parseSize(memory) }),
  };
}

/** What to give a client. */
function uriOf(address: string, name = "", isSecure = false): string {
  const scheme = isSecure ? "nbds" : "nbd";
  return address.startsWith("unix:")
    ? `${scheme}+unix:///${name}?socket=${address.slice("unix:".length)}`
    : `${scheme}://${address}/${name}`;
}
