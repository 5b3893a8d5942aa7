/** `torus ctl volume ...`: volumes by name. */
import { formatDuration, formatSize } from "../../base";
import type { VolumeRecord } from "../../engine";
import { type AccessList, isMetaError, type VolumeInfo } from "../../meta";
import {
  CommandError,
  group,
  leaf,
  type Metadata,
  metaArgs,
  parseVolumeSize,
  UsageError,
  withMetadata,
} from "../cli";
import { startClient, type VolumeFlags, volumeArgs } from "../client";
import { type Column, outputArgs, outputStyle, renderList, renderRecord } from "../output";

const nameArg = { type: "positional", description: "Name of the volume", required: true } as const;

export const volumeColumns: readonly Column<VolumeInfo>[] = [
  { name: "name", title: "NAME", value: (row) => row.name },
  {
    name: "sizeBytes",
    title: "SIZE",
    align: "right",
    value: (row) => row.sizeBytes,
    text: (row, style) => formatSize(row.sizeBytes, style),
  },
  {
    name: "attachedTo",
    title: "ATTACHED TO",
    value: (row) => row.attached?.holder ?? null,
    text: (row) => row.attached?.holder ?? "-",
  },
  { name: "snapshotCount", title: "SNAPSHOTS", align: "right", value: (row) => row.snapshotCount },
  { name: "volumeId", title: "ID", align: "right", value: (row) => row.volumeId },
];

export const volumeListCommand = leaf({
  name: "list",
  description: "List volumes, and who has them attached",
  examples: ["torus ctl volume list", "torus ctl volume list --json"],
  args: { ...outputArgs, ...metaArgs },
  async run(args) {
    const style = outputStyle(args);
    await withMetadata(args, async ({ volumes }) => {
      const { volumes: rows, damage } = await volumes.list();
      for (const error of damage) console.error(error.message);
      process.stdout.write(
        renderList(
          volumeColumns,
          rows.toSorted((a, b) => (a.name < b.name ? -1 : 1)),
          style,
        ),
      );
    });
  },
});

export const volumeCreateCommand = leaf({
  name: "create-block",
  alias: ["create"],
  description: "Make a volume; it takes no space until it is written",
  examples: ["torus ctl volume create-block data 10GiB", "torus ctl block create data 500M"],
  args: {
    name: nameArg,
    size: {
      type: "positional",
      description: "Size: 10GiB, 500M ... at most 64 TiB, in whole sectors of 512 B",
      required: true,
    },
    json: outputArgs.json,
    ...metaArgs,
  },
  async run(args) {
    const sizeBytes = parseVolumeSize(args.size);
    await withMetadata(args, async ({ settings, volumes }) => {
      await settings.get();
      const made = await volumes.create(args.name, sizeBytes);
      console.log(
        args.json ? JSON.stringify(made) : `Created volume ${made.name} of ${formatSize(made.sizeBytes)}`,
      );
    });
  },
});

export const volumeDeleteCommand = leaf({
  name: "delete",
  description: "Delete a volume; its space comes back within a minute or so",
  examples: ["torus ctl volume delete data", "torus ctl volume delete data --with-snapshots"],
  args: {
    name: nameArg,
    "with-snapshots": { type: "boolean", description: "Its snapshots too" },
    json: outputArgs.json,
    ...metaArgs,
  },
  async run(args) {
    await withMetadata(args, async ({ volumes }) => {
      await volumes.delete(args.name, { withSnapshots: args["with-snapshots"] === true });
      console.log(
        args.json ? JSON.stringify({ name: args.name, deleted: true }) : `Deleted volume ${args.name}`,
      );
    });
  },
});

type VolumeDetails = VolumeInfo & { readonly allowedClients: AccessList };

const infoColumns: readonly Column<VolumeDetails>[] = [
  ...volumeColumns,
  { name: "epoch", title: "EPOCH", value: (row) => row.epoch },
  {
    name: "attachedSinceMs",
    title: "ATTACHED FOR",
    value: (row) => row.attached?.sinceMs ?? null,
    text: (row) => (row.attached === undefined ? "-" : formatDuration(Date.now() - row.attached.sinceMs)),
  },
  { name: "logRingVersion", title: "LOG RING", value: (row) => row.head?.log.ringVersion ?? null },
  { name: "logWidth", title: "LOG WIDTH", value: (row) => row.head?.log.width ?? null },
  {
    name: "logMembers",
    title: "LOG PEERS",
    value: (row) => row.head?.log.members.map((member) => member.peerId) ?? [],
    text: (row) => {
      const members = row.head?.log.members ?? [];
      return members.length === 0 ? "none (detached cleanly)" : members.map((m) => m.peerId).join(", ");
    },
  },
  {
    name: "openToAllClients",
    title: "OPEN TO ALL",
    value: (row) => row.allowedClients === undefined,
    text: (row) => (row.allowedClients === undefined ? "yes" : "no"),
  },
  {
    name: "allowedClients",
    title: "ALLOWED CLIENTS",
    value: (row) => row.allowedClients ?? [],
    text: ({ allowedClients = [] }) => (allowedClients.length === 0 ? "-" : allowedClients.join(", ")),
  },
  { name: "lineageId", title: "LINEAGE", value: (row) => row.lineageId },
  {
    name: "createdMs",
    title: "CREATED",
    value: (row) => row.createdMs,
    text: (row) => new Date(row.createdMs).toISOString(),
  },
];

export const volumeInfoCommand = leaf({
  name: "info",
  description: "Show one volume: who has it, where its log lives",
  examples: ["torus ctl volume info data --json"],
  args: { name: nameArg, ...outputArgs, ...metaArgs },
  async run(args) {
    const style = outputStyle(args);
    await withMetadata(args, async ({ volumes, access }) => {
      const allowed = access.effective(args.name).catch((error: unknown) => {
        if (!isMetaError(error, "bad-record")) throw error;
        console.error(`The access list cannot be read: ${error.message}`);
        return [];
      });
      const [info, allowedClients] = await Promise.all([volumes.info(args.name), allowed]);
      const details = { ...info, allowedClients };
      process.stdout.write(renderRecord(infoColumns, details, style));
    });
  },
});

/** Through the engine: it trims what lies beyond the new end, and puts a crashed writer's tail in order. */
async function resizeOpened(
  args: VolumeFlags,
  name: string,
  sizeBytes: number,
  shrink: boolean,
): Promise<void> {
  const client = await startClient(args, 0);
  try {
    const device = await client.plane.openDevice({ volume: name });
    try {
      await device.resize(sizeBytes, shrink);
    } finally {
      await device.close();
    }
  } finally {
    await client.close();
  }
}

async function resize(
  args: VolumeFlags,
  metadata: Metadata,
  name: string,
  sizeBytes: number,
  shrink: boolean,
): Promise<VolumeRecord> {
  const { volumes } = metadata;
  const { attached, sizeBytes: before } = await volumes.info(name);
  if (sizeBytes < before && shrink) {
    if (attached !== undefined)
      throw new CommandError(
        "conflict",
        `Cannot shrink volume "${name}": it is attached by ${attached.holder}; detach it there first`,
      );
    await resizeOpened(args, name, sizeBytes, true);
    return volumes.info(name);
  }
  try {
    return await volumes.resize(name, sizeBytes);
  } catch (error) {
    if (!isMetaError(error, "volume-has-tail")) throw error;
  }
  await resizeOpened(args, name, sizeBytes, false);
  return volumes.info(name);
}

export const volumeResizeCommand = leaf({
  name: "resize",
  description: "Change a volume's size; a larger one reaches clients that have it attached",
  examples: ["torus ctl volume resize data 20GiB", "torus ctl volume resize data 5GiB --shrink"],
  args: {
    name: nameArg,
    size: { type: "positional", description: "The new size", required: true },
    shrink: {
      type: "boolean",
      description: "Make it smaller, detached: what lies beyond the new end is lost",
    },
    json: outputArgs.json,
    ...volumeArgs,
    ...metaArgs,
  },
  async run(args) {
    const sizeBytes = parseVolumeSize(args.size);
    await withMetadata(args, async (metadata) => {
      const { name, sizeBytes: now } = await resize(
        args,
        metadata,
        args.name,
        sizeBytes,
        args.shrink === true,
      );
      console.log(
        args.json ? JSON.stringify({ name, sizeBytes: now }) : `Volume ${name} has ${formatSize(now)} now`,
      );
    });
  },
});

export const volumeRenameCommand = leaf({
  name: "rename",
  description: "Give a volume another name; clients that have it attached go on",
  examples: ["torus ctl volume rename data data-old"],
  args: {
    name: nameArg,
    newName: { type: "positional", description: "The new name", required: true },
    json: outputArgs.json,
    ...metaArgs,
  },
  async run(args) {
    await withMetadata(args, async ({ volumes }) => {
      const volume = await volumes.rename(args.name, args.newName);
      console.log(args.json ? JSON.stringify(volume) : `Renamed volume ${args.name} to ${volume.name}`);
    });
  },
});

export const volumeUnlockCommand = leaf({
  name: "unlock",
  description: "Take a volume from a holder that is gone; the old writer is fenced and can do no harm",
  examples: ["torus ctl volume unlock data --force"],
  args: {
    name: nameArg,
    force: { type: "boolean", description: "Yes, although its lease has not ended" },
    json: outputArgs.json,
    ...metaArgs,
  },
  async run(args) {
    await withMetadata(args, async ({ volumes }) => {
      const { attached } = await volumes.info(args.name);
      if (attached !== undefined && !args.force)
        throw new UsageError(
          `Volume "${args.name}" is attached by ${attached.holder}: detach it there, wait for its lease to end, or use --force`,
        );
      if (attached !== undefined) console.error(`Waiting one lease (${formatDuration(attached.ttlMs)}) ...`);
      const unlocked = await volumes.forceUnlock(args.name);
      if (args.json) console.log(JSON.stringify({ name: args.name, unlocked }));
      else console.log(unlocked ? `Unlocked volume ${args.name}` : `Volume ${args.name} was not locked`);
    });
  },
});

function namesOf(text: string | undefined): readonly string[] {
  return (text ?? "")
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");
}

const accessText = (list: AccessList) => {
  if (list === undefined) return "everybody with a certificate of the cluster";
  return list.length === 0 ? "peers and administrators only" : list.join(", ");
};

export const volumeAccessCommand = leaf({
  name: "access",
  description: "Say which clients' certificates may use a volume, or change it",
  examples: [
    "torus ctl volume access data",
    "torus ctl volume access data --allow web-1,web-2",
    "torus ctl volume access data --deny web-1",
    "torus ctl volume access data --everybody",
  ],
  args: {
    name: nameArg,
    allow: {
      type: "string",
      description: "Names in certificates to let in; the first makes the volume closed to all others",
      valueHint: "NAME,...",
    },
    deny: { type: "string", description: "Names to take from the list", valueHint: "NAME,..." },
    everybody: { type: "boolean", description: "Open it to every client again: remove the list" },
    json: outputArgs.json,
    ...metaArgs,
  },
  lists: ["allow", "deny"],
  async run(args) {
    const [allowed, denied] = [namesOf(args.allow), namesOf(args.deny)];
    const changes = allowed.length + denied.length > 0;
    if (args.everybody && changes) throw new UsageError("Give --everybody alone, or --allow and --deny");
    if ((args.allow ?? args.deny) !== undefined && !changes)
      throw new UsageError("Give at least one name to --allow or --deny");
    await withMetadata(args, async ({ access }) => {
      if (args.everybody) await access.change(args.name, () => undefined);
      // Without a list of its own a clone has that of the volume it comes from.
      const list = changes
        ? await access.change(args.name, (before) =>
            [...(before() ?? []), ...allowed].filter((name) => !denied.includes(name)),
          )
        : await access.effective(args.name);
      console.log(
        args.json
          ? JSON.stringify({ name: args.name, clients: list ?? null })
          : `Volume ${args.name} may be used by ${accessText(list)}${list?.length === 0 ? ": no name is on its list (--everybody removes the list)" : ""}`,
      );
    });
  },
});

export const volumeCommand = group("volume", "Volumes: make, list, resize, delete", {
  list: volumeListCommand,
  "create-block": volumeCreateCommand,
  delete: volumeDeleteCommand,
  info: volumeInfoCommand,
  resize: volumeResizeCommand,
  rename: volumeRenameCommand,
  access: volumeAccessCommand,
  unlock: volumeUnlockCommand,
});
