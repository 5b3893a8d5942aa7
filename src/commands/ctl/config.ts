/** `torus ctl config` and `torus ctl wipe`: a person's profiles, and the end of a cluster. */
import { chmod, mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import { configFilePath, leaf, metaArgs, readConfigFile, UsageError, withMetadata } from "../cli";
import { renderJson } from "../output";

export const configCommand = leaf({
  name: "config",
  description: "Keep where the metadata is under a name, so that no command needs to be told",
  examples: [
    "torus ctl config --meta etcd://10.0.0.1:2379",
    "torus ctl config --profile lab --meta http://lab1:4321",
    "torus ctl config --view",
  ],
  args: { view: { type: "boolean", description: "Show what is kept" }, ...metaArgs },
  async run(args) {
    const path = configFilePath();
    const config = await readConfigFile(path);
    if (args.view) {
      const shown = Object.fromEntries(
        Object.entries(config.profiles).map(([name, profile]) => [
          name,
          profile.etcdPassword === undefined ? profile : { ...profile, etcdPassword: "***" },
        ]),
      );
      process.stdout.write(renderJson({ file: path, ...config, profiles: shown }));
      return;
    }
    const url = args.meta ?? (args.etcd === undefined ? undefined : `etcd://${args.etcd}`);
    if (url === undefined) throw new UsageError("Say what to keep: --meta URL, or --view to look");
    const name = args.profile ?? "default";
    const profile = {
      meta: url,
      ...(args["peer-cert-file"] === undefined ? {} : { peerCertFile: args["peer-cert-file"] }),
      ...(args["peer-key-file"] === undefined ? {} : { peerKeyFile: args["peer-key-file"] }),
      ...(args["peer-ca-file"] === undefined ? {} : { peerCaFile: args["peer-ca-file"] }),
      ...(args["etcd-cert-file"] === undefined ? {} : { etcdCertFile: args["etcd-cert-file"] }),
      ...(args["etcd-key-file"] === undefined ? {} : { etcdKeyFile: args["etcd-key-file"] }),
      ...(args["etcd-ca-file"] === undefined ? {} : { etcdCaFile: args["etcd-ca-file"] }),
      ...(args["etcd-user"] === undefined ? {} : { etcdUser: args["etcd-user"] }),
    };
    const next = { default: config.default ?? name, profiles: { ...config.profiles, [name]: profile } };
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await Bun.write(path, renderJson(next));
    // It may hold a password one day.
    await chmod(path, 0o600);
    console.log(`Profile ${name} in ${path}: ${url}`);
  },
});

export const wipeCommand = leaf({
  name: "wipe",
  description: "Forget a whole cluster: every volume and snapshot in it is lost",
  examples: ["torus ctl wipe --yes-i-am-sure"],
  args: {
    "yes-i-am-sure": { type: "boolean", description: "Do not ask" },
    force: { type: "boolean", description: "Even while volumes are attached and peers run" },
    ...metaArgs,
  },
  async run(args) {
    await withMetadata(args, async ({ settings, volumes, context }) => {
      const { clusterId } = await settings.get();
      const { volumes: all } = await volumes.list();
      if (!args["yes-i-am-sure"]) {
        if (!process.stdin.isTTY) throw new UsageError("Nobody to ask: give --yes-i-am-sure");
        const answer = prompt(
          `This forgets cluster ${clusterId} in ${context.store.description} with ${all.length} volumes. Type its id to go on:`,
        );
        if (answer?.trim() !== clusterId) throw new UsageError("Not wiped: that is not the cluster's id");
      }
      await settings.wipe({ force: args.force === true });
      console.log(`Wiped cluster ${clusterId}: remove the peers' data directories too`);
    });
  },
});
