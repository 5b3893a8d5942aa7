/** `torus blk`: volumes on this machine. */
import { group } from "../cli";
import { aoeCommand } from "./aoe";
import { nbdserveCommand } from "./nbdserve";

export const blkCommand = group("blk", "Use volumes on this machine", {
  nbdserve: nbdserveCommand,
  aoe: aoeCommand,
  // Loaded when asked for: it brings an HTTP/2 server along.
  csi: () => import("./csi").then((module) => module.csiCommand),
});
