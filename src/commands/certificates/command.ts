/** `torus ctl cert`: an authority and certificates for a cluster that has none. */
import { isIP } from "node:net";
import { formatDuration, parseDuration } from "../../base";
import { systemClock } from "../../base/io";
import { group, leaf, UsageError } from "../cli";
import { issueCertificate, makeAuthority, subjectOf } from "./certificate";
import {
  AUTHORITY_NAME,
  filesOf,
  makeFolder,
  readAuthority,
  readCertificate,
  writeCertificate,
} from "./files";

const FOLDER_DEFAULT = "./torus-certs";
const AUTHORITY_DAYS = "3650d";
const CERTIFICATE_DAYS = "365d";
const ROLES = { admin: "torus-admin", peer: "torus-peer", client: "torus-client" } as const;
const NAME_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const HOST_PATTERN =
  /^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$/;

const dirArg = {
  dir: {
    type: "string",
    description: `Folder of the authority (default ${FOLDER_DEFAULT})`,
    valueHint: "DIR",
  },
} as const;

const initCommand = leaf({
  name: "init",
  description: "Make an authority: its key stays on this machine, its certificate goes to all others",
  examples: ["torus ctl cert init", "torus ctl cert init --dir /etc/torus/certs --name 'storage ca'"],
  args: {
    ...dirArg,
    name: { type: "string", description: "Name of the authority (default torus CA)", valueHint: "NAME" },
    lifetime: { type: "string", description: `Default ${AUTHORITY_DAYS}`, valueHint: "T" },
  },
  async run(args) {
    const folder = args.dir ?? FOLDER_DEFAULT;
    const subject = { commonName: args.name ?? "torus CA", organization: "torus" };
    const lifetimeMs = parseDuration(args.lifetime ?? AUTHORITY_DAYS);
    await makeFolder(folder);
    const files = filesOf(folder, AUTHORITY_NAME);
    await writeCertificate(files, makeAuthority(subject, lifetimeMs, systemClock.wallMs()));
    console.log(
      `Made ${files.certFile} (give it to every machine) and ${files.keyFile} (keep it to yourself)`,
    );
  },
});

function checkedHosts(text: string | undefined): string[] {
  const hosts = (text ?? "")
    .split(",")
    .map((host) => host.trim())
    .filter((host) => host !== "");
  for (const host of hosts)
    if (isIP(host) === 0 && !HOST_PATTERN.test(host))
      throw new UsageError(
        `Cannot use "${host}" in --hosts: give host names and addresses, separated by commas`,
      );
  return hosts;
}

const issueCommand = leaf({
  name: "issue",
  description: "Make a certificate and its key, signed by the authority",
  examples: [
    "torus ctl cert issue node-a --role peer --hosts 10.0.0.1,node-a.example.org",
    "torus ctl cert issue alice --role admin",
  ],
  args: {
    name: { type: "positional", description: "Whose it is; also the name of the files", required: true },
    role: {
      type: "enum",
      options: ["admin", "peer", "client"],
      description: "admin: may change the ring; peer: stores blocks; client: uses volumes (default client)",
    },
    hosts: {
      type: "string",
      description: "Names and addresses that it is reached by (peers need them)",
      valueHint: "HOST,...",
    },
    lifetime: { type: "string", description: `Default ${CERTIFICATE_DAYS}`, valueHint: "T" },
    ...dirArg,
  },
  lists: ["hosts"],
  async run(args) {
    const folder = args.dir ?? FOLDER_DEFAULT;
    const role = args.role ?? "client";
    if (!NAME_PATTERN.test(args.name) || args.name === AUTHORITY_NAME)
      throw new UsageError(
        `Cannot use "${args.name}" as a name: give letters, digits, dots and dashes, and not "${AUTHORITY_NAME}"`,
      );
    const hosts = checkedHosts(args.hosts);
    if (role === "peer" && hosts.length === 0)
      throw new UsageError(
        "Give --hosts: a peer is only trusted under the names and addresses in its certificate",
      );
    const lifetimeMs = parseDuration(args.lifetime ?? CERTIFICATE_DAYS);
    const authority = await readAuthority(folder);
    const files = filesOf(folder, args.name);
    const subject = { commonName: args.name, organization: ROLES[role] };
    const made = issueCertificate(authority, subject, hosts, lifetimeMs, systemClock.wallMs());
    await writeCertificate(files, made);
    console.log(
      `Made ${files.certFile} and ${files.keyFile} for role ${role}; use them with\n  --peer-cert-file ${files.certFile} --peer-key-file ${files.keyFile} --peer-ca-file ${filesOf(folder, AUTHORITY_NAME).certFile}`,
    );
  },
});

const showCommand = leaf({
  name: "show",
  description: "Say whose a certificate is and how long it is good",
  examples: ["torus ctl cert show torus-certs/node-a.pem"],
  args: { file: { type: "positional", description: "Certificate (PEM)", required: true } },
  async run(args) {
    const certificate = await readCertificate(args.file);
    const { commonName, organization } = subjectOf(certificate);
    const leftMs = Date.parse(certificate.validTo) - systemClock.wallMs();
    const left = leftMs > 0 ? `${formatDuration(leftMs)} left` : "expired";
    console.log(
      `Name      ${commonName}\nRole      ${organization}\nReached   ${certificate.subjectAltName ?? "(no host)"}`,
    );
    console.log(
      `Until     ${certificate.validTo} (${left})\nIssuer    ${certificate.issuer.replaceAll("\n", ", ")}`,
    );
  },
});

export const certCommand = group("cert", "Make certificates for a cluster that has no authority", {
  init: initCommand,
  issue: issueCommand,
  show: showCommand,
});
