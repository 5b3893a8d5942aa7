/** `torus ctl config` and `torus ctl wipe`: a person's profiles, and the end of a cluster. */
import { mkdir, rename, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import {
  CommandError,
  type ConfigFile,
  configFilePath,
  leaf,
  metaArgs,
  type MetaFlags,
  type Profile,
  readConfigFile,
  UsageError,
  withMetadata,
} from "../cli";
import { parseMetaUrl, shownMetaUrl } from "../../meta";
import { renderJson } from "../output";
import { formatCount } from "../../base";

function withoutSecret(profile: Profile): Profile {
  return {
    ...profile,
    ...(profile.meta === undefined ? {} : { meta: shownMetaUrl(profile.meta) }),
    ...(profile.etcdPassword === undefined ? {} : { etcdPassword: "***" }),
  };
}

function view(path: string, config: ConfigFile, name: string | undefined): string {
  if (name === undefined) {
    const shown = Object.entries(config.profiles).map(([one, profile]) => [one, withoutSecret(profile)]);
    return renderJson({ file: path, ...config, profiles: Object.fromEntries(shown) });
  }
  return renderJson(withoutSecret(heldProfile(path, config, name)));
}

function heldProfile(path: string, config: ConfigFile, name: string): Profile {
  const profile = Object.hasOwn(config.profiles, name) ? config.profiles[name] : undefined;
  if (profile === undefined) throw new UsageError(`Unknown profile "${name}": ${path} does not hold it`);
  return profile;
}

/** What the flags say, in the words of the file. */
function profileFrom(args: MetaFlags): Profile | undefined {
  const meta = args.meta ?? (args.etcd === undefined ? undefined : `etcd://${args.etcd}`);
  if (meta === undefined) return undefined;
  const given = {
    etcdCertFile: args["etcd-cert-file"],
    etcdKeyFile: args["etcd-key-file"],
    etcdCaFile: args["etcd-ca-file"],
    etcdUser: args["etcd-user"],
    etcdPassword: args["etcd-user"] === undefined ? undefined : process.env.TORUS_ETCD_PASSWORD,
    peerCertFile: args["peer-cert-file"],
    peerKeyFile: args["peer-key-file"],
    peerCaFile: args["peer-ca-file"],
  };
  return { meta, ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) };
}

/** It appears whole or not at all, and nobody else reads it: it may hold a password. */
async function writeConfig(path: string, config: ConfigFile): Promise<void> {
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await writeFile(`${path}.tmp`, renderJson(config), { mode: 0o600 });
    await rename(`${path}.tmp`, path);
  } catch (error) {
    const reason = error instanceof Error && "code" in error ? String(error.code) : String(error);
    throw new CommandError(
      "config",
      `Cannot write ${path}: ${reason}; check that folder, or name another with TORUS_CONFIG_DIR`,
      error,
    );
  }
}

/** Of the profile in use that is removed, the one named "default" takes the place. */
function defaultAfter(preset: string | undefined, others: ConfigFile["profiles"]): { default?: string } {
  if (preset !== undefined) return { default: preset };
  return Object.hasOwn(others, "default") ? { default: "default" } : {};
}

export const configCommand = leaf({
  name: "config",
  description: "Keep where the metadata is under a name, so that no command needs to be told",
  examples: [
    "torus ctl config --meta etcd://10.0.0.1:2379",
    "torus ctl config --profile lab --meta http://lab1:4321",
    "torus ctl config --profile lab --use",
    "torus ctl config --profile lab --view",
    "torus ctl volume list --profile lab",
  ],
  args: {
    view: { type: "boolean", description: "Show what is kept, or only the profile that is named" },
    use: { type: "boolean", description: "Use this profile where a command names none" },
    remove: { type: "boolean", description: "Forget this profile" },
    ...metaArgs,
    profile: { type: "string", description: 'Name to keep it under (default "default")', valueHint: "NAME" },
  },
  async run(args) {
    const path = configFilePath();
    const config = await readConfigFile(path);
    const name = args.profile ?? "default";
    const kept = profileFrom(args);
    if (
      [args.view, args.use && kept === undefined, args.remove, kept !== undefined].filter(Boolean).length !==
      1
    )
      throw new UsageError("Say what to keep (--meta URL), or give one of --view, --use and --remove");
    if (kept?.meta !== undefined) parseMetaUrl(kept.meta);
    if (args.view) {
      process.stdout.write(view(path, config, args.profile));
      return;
    }
    if (kept === undefined) heldProfile(path, config, name);
    const { [name]: before, ...others } = config.profiles;
    if (args.remove) {
      const { default: preset, ...rest } = config;
      await writeConfig(path, {
        ...rest,
        ...defaultAfter(preset === name ? undefined : preset, others),
        profiles: others,
      });
      console.log(`Removed profile ${name} from ${path}`);
      return;
    }
    const profile = kept ?? (before as Profile);
    await writeConfig(path, {
      ...config,
      default: args.use ? name : (config.default ?? name),
      profiles: { ...others, [name]: profile },
    });
    console.log(`Profile ${name} in ${path}: ${withoutSecret(profile).meta}`);
  },
});

export const wipeCommand = leaf({
  name: "wipe",
  description:
    "Forget a whole cluster: every volume and snapshot in it is lost. Asks for the cluster's id first; detach the volumes and stop the daemons before",
  examples: [
    "torus ctl wipe --meta etcd://10.0.0.1:2379",
    "torus ctl wipe --meta sqlite:torus-data/meta.db --yes-i-am-sure",
  ],
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
          `This forgets cluster ${clusterId} in ${context.store.description} with all that is in its ${formatCount(all.length, "volume")}; there is no way back. Type the cluster's id to go on:`,
        );
        if (answer?.trim() !== clusterId) throw new UsageError("Not wiped: that is not the cluster's id");
      }
      await settings.wipe({ force: args.force === true });
      console.log(`Wiped cluster ${clusterId}: remove the peers' data directories too`);
    });
  },
});
