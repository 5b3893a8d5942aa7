/** `torus version`: what is running, for bug reports and for comparing machines. */
import { type AnyCommand, leaf } from "../cli";
import { buildInfo } from "../executable";

export const versionCommand: AnyCommand = leaf({
  name: "version",
  description: "Show version and commit",
  examples: ["torus version", "torus version --json"],
  args: { json: { type: "boolean", description: "Print JSON" } },
  run(args) {
    if (args.json) console.log(JSON.stringify(buildInfo));
    else
      console.log(
        `torus ${buildInfo.version} (commit ${buildInfo.commit}, ${buildInfo.platform}, ${buildInfo.runtime})`,
      );
  },
});
