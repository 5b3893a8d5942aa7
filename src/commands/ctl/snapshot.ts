/** `torus ctl block snapshot ...`: named states of a volume that never change. */
import { formatSize } from "../../base";
import type { SnapshotInfo } from "../../meta";
import { type Client, startClient, volumeArgs } from "../client";
import { CommandError, group, leaf, metaArgs, withMetadata } from "../cli";
import { type Column, outputArgs, outputStyle, renderList } from "../output";
import { diffCommand } from "./snapshot-diff";
import { makeSnapshot, parseSnapshotName } from "./snapshot-making";

const WAIT_FOR_LOCK_MS = 20_000;

const nameArgs = {
  name: { type: "positional", description: "VOLUME@SNAPSHOT", required: true },
  json: outputArgs.json,
  ...metaArgs,
} as const;

const createCommand = leaf({
  name: "create",
  description: "Take a snapshot; of an attached volume its writer takes it, at a flush",
  examples: ["torus ctl block snapshot create data@monday"],
  args: { ...nameArgs, ...volumeArgs },
  async run(args) {
    const { volume, snapshot } = parseSnapshotName(args.name);
    await withMetadata(args, async (metadata) => {
      let client: Promise<Client> | undefined;
      const start = () => {
        client ??= startClient(args, WAIT_FOR_LOCK_MS);
        return client;
      };
      try {
        const made = await makeSnapshot(start, metadata, volume, snapshot);
        console.log(args.json ? JSON.stringify(made) : `Created snapshot ${volume}@${snapshot}`);
      } finally {
        await (await client)?.close();
      }
    });
  },
});

const columns: readonly Column<SnapshotInfo>[] = [
  { name: "name", title: "NAME", value: (row) => row.name },
  {
    name: "sizeBytes",
    title: "SIZE",
    align: "right",
    value: (row) => row.sizeBytes,
    text: (row, style) => formatSize(row.sizeBytes, style),
  },
  {
    name: "createdMs",
    title: "CREATED",
    value: (row) => row.createdMs,
    text: (row) => new Date(row.createdMs).toISOString().replace("T", " ").slice(0, 19),
  },
  { name: "pinCount", title: "READERS", align: "right", value: (row) => row.pinCount },
  {
    name: "isTemporary",
    title: "TEMPORARY",
    value: (row) => row.isTemporary,
    text: (row) => (row.isTemporary ? "yes" : "-"),
  },
  { name: "origin", title: "COPY OF", value: (row) => row.origin ?? null, text: (row) => row.origin ?? "-" },
];

const listCommand = leaf({
  name: "list",
  description: "List a volume's snapshots, oldest first",
  examples: ["torus ctl block snapshot list data"],
  args: {
    volume: { type: "positional", description: "Name of the volume", required: true },
    ...outputArgs,
    ...metaArgs,
  },
  async run(args) {
    const style = outputStyle(args);
    await withMetadata(args, async (metadata) => {
      const { snapshots, damage } = await metadata.snapshots.list(args.volume);
      for (const error of damage) console.error(error.message);
      process.stdout.write(
        renderList(
          columns,
          snapshots.toSorted((a, b) => a.createdMs - b.createdMs),
          style,
        ),
      );
    });
  },
});

const deleteCommand = leaf({
  name: "delete",
  description: "Delete a snapshot; clones of it live on",
  examples: ["torus ctl block snapshot delete data@monday"],
  args: nameArgs,
  async run(args) {
    const { volume, snapshot } = parseSnapshotName(args.name);
    await withMetadata(args, async (metadata) => {
      await metadata.snapshots.delete(volume, snapshot);
      console.log(
        args.json
          ? JSON.stringify({ volume, snapshot, deleted: true })
          : `Deleted snapshot ${volume}@${snapshot}`,
      );
    });
  },
});

const restoreCommand = leaf({
  name: "restore",
  description: "Put a detached volume back to a snapshot; what was written since is lost",
  examples: ["torus ctl block snapshot restore data@monday"],
  args: { ...nameArgs, ...volumeArgs },
  async run(args) {
    const { volume, snapshot } = parseSnapshotName(args.name);
    const client = await startClient(args, 0);
    try {
      const { attached } = await client.metadata.volumes.info(volume);
      if (attached !== undefined)
        throw new CommandError(
          "conflict",
          `Cannot restore volume "${volume}": it is attached by ${attached.holder}; detach it there first`,
        );
      const device = await client.plane.openDevice({ volume, restoreSnapshot: snapshot });
      await device.close();
      console.log(
        args.json
          ? JSON.stringify({ volume, snapshot, restored: true })
          : `Volume ${volume} is as it was at ${snapshot}`,
      );
    } finally {
      await client.close();
    }
  },
});

export const snapshotCommand = group("snapshot", "Snapshots of volumes", {
  create: createCommand,
  list: listCommand,
  delete: deleteCommand,
  restore: restoreCommand,
  diff: diffCommand,
});
