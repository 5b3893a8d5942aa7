/**
 * The root of the command tree. Each branch is imported when it is asked for, so that `torus ctl` does not load
 * the storage engine. It has no `run`: that is what makes it a group.
 */
import { defineCommand } from "citty";
import type { AnyCommand } from "../cli";

export const rootCommand: AnyCommand = defineCommand({
  meta: { name: "torus", description: "Distributed block storage in one executable" },
  subCommands: {
    ringtool: () => import("../ringtool").then((module) => module.ringtoolCommand),
    daemon: () => import("../daemon").then((module) => module.daemonCommand),
    ctl: async () => {
      const [{ ctlCommand }, { completionCommand }] = await Promise.all([
        import("../ctl"),
        import("../reference"),
      ]);
      // Completion is over the whole tree, which only this place knows.
      const listed = (await ctlCommand.subCommands) as Record<string, AnyCommand>;
      const subCommands = { ...listed, completion: completionCommand(rootCommand) };
      return { ...ctlCommand, subCommands };
    },
    blk: () => import("../blk").then((module) => module.blkCommand),
    version: () => import("../version").then((module) => module.versionCommand),
  },
});
