/** `torus blk`: volumes on this machine. */
import { group } from "../cli";
import { aoeCommand } from "./aoe";
import { attachCommand } from "./attach";
import { detachCommand } from "./detach";
import { blkListCommand } from "./list";
import { nbdCommand } from "./nbd";
import { flexCommand } from "./flex";
import { nbdserveCommand } from "./nbdserve";

export const blkCommand = group("blk", "Use volumes on this machine", {
  attach: attachCommand,
  detach: detachCommand,
  list: blkListCommand,
  nbd: nbdCommand,
  nbdserve: nbdserveCommand,
  flex: flexCommand,
  aoe: aoeCommand,
  // Loaded when asked for: they bring along what the others do without.
  bench: () => import("./bench").then((module) => module.benchCommand),
  csi: () => import("./csi").then((module) => module.csiCommand),
});
