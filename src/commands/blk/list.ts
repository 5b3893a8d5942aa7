/** `torus blk list`: what is attached to this machine's kernel. */
import { formatSize } from "../../base";
import { leaf } from "../cli";
import { type Column, outputArgs, outputStyle, renderList } from "../output";
import { type AttachedDevice, attachedDevices } from "./attached-devices";

const columns: readonly Column<AttachedDevice>[] = [
  { name: "device", title: "DEVICE", value: ({ device }) => device.path },
  {
    name: "volume",
    title: "VOLUME",
    value: ({ name }) => name ?? null,
    text: ({ name }) => name ?? "(not of torus)",
  },
  {
    name: "sizeBytes",
    title: "SIZE",
    align: "right",
    value: ({ device }) => device.sizeBytes,
    text: ({ device }, style) => formatSize(device.sizeBytes, style),
  },
  { name: "readOnly", title: "READ-ONLY", value: ({ device }) => device.readOnly },
  {
    name: "processId",
    title: "PID",
    align: "right",
    value: ({ record, device }) => record?.pid ?? device.pid ?? null,
  },
  {
    name: "served",
    title: "SERVED",
    value: ({ name, served }) => (name === undefined ? null : served),
    text: ({ name, served }) => (name === undefined ? "-" : served ? "yes" : "NO: waits for a new process"),
  },
  {
    name: "mountPoints",
    title: "MOUNTED AT",
    value: ({ device }) => device.mountPoints,
    text: ({ device }) => (device.mountPoints.length === 0 ? "-" : device.mountPoints.join(", ")),
  },
];

export const blkListCommand = leaf({
  name: "list",
  description: "List the nbd devices of this machine that are attached, and who serves them",
  examples: ["torus blk list", "torus blk list --json"],
  args: { ...outputArgs, debug: { type: "boolean", description: "Show stack traces" } },
  run(args) {
    process.stdout.write(renderList(columns, attachedDevices(), outputStyle(args)));
  },
});
