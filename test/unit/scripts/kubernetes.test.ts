/** The manifests are read by no cluster here: what can be known of them without one is. */
import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DRIVER_NAME } from "../../../src/blockdev/csi";
import { findCommand, rootCommand } from "../../../src/commands/root";

interface Container {
  readonly name: string;
  readonly image: string;
  readonly args?: readonly string[];
  readonly volumeMounts?: readonly { readonly name: string }[];
}
interface Manifest {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly provisioner?: string;
  readonly driver?: string;
  readonly spec?: {
    readonly selector?: { readonly matchLabels?: object };
    readonly volumeClaimTemplates?: readonly Manifest[];
    readonly template?: {
      readonly metadata?: { readonly labels?: object };
      readonly spec: {
        readonly containers: readonly Container[];
        readonly volumes?: readonly { readonly name: string }[];
      };
    };
  };
}

const folder = join(import.meta.dir, "../../../scripts/kubernetes");
const manifests = readdirSync(folder)
  .filter((name) => name.endsWith(".yaml"))
  .flatMap((name) => Bun.YAML.parse(readFileSync(join(folder, name), "utf8")) as Manifest | Manifest[]);
const workloads = manifests.filter((one) => one.spec?.template !== undefined);

describe("scripts/kubernetes", () => {
  test("has what a cluster needs", () => {
    const kinds = manifests.map((one) => `${one.kind} ${one.metadata.name}`);
    for (const kind of [
      "StatefulSet torus-etcd",
      "DaemonSet torus-daemon",
      "CSIDriver csi.torus.storage",
      "Deployment torus-csi-controller",
      "DaemonSet torus-csi-node",
      "StorageClass torus",
      "VolumeSnapshotClass torus",
      "StatefulSet postgresql",
    ])
      expect(kinds).toContain(kind);
  });

  test("names the driver by its name", () => {
    for (const { kind, provisioner, driver, metadata } of manifests) {
      if (kind === "StorageClass") expect(provisioner).toBe(DRIVER_NAME);
      if (kind === "VolumeSnapshotClass") expect(driver).toBe(DRIVER_NAME);
      if (kind === "CSIDriver") expect(metadata.name).toBe(DRIVER_NAME);
    }
  });

  test("selects its own pods, and mounts volumes that are there", () => {
    expect(workloads.length).toBeGreaterThan(4);
    for (const { kind, spec } of workloads) {
      if (kind !== "Job") expect(spec?.selector?.matchLabels).toEqual(spec?.template?.metadata?.labels ?? {});
      const pod = spec!.template!.spec;
      const claims = (spec?.volumeClaimTemplates ?? []).map((one) => one.metadata.name);
      const volumes = [...(pod.volumes ?? []).map((one) => one.name), ...claims];
      for (const container of pod.containers)
        for (const mount of container.volumeMounts ?? []) expect(volumes).toContain(mount.name);
    }
  });

  test("gives torus only options that it has", async () => {
    let checked = 0;
    for (const { spec } of workloads)
      for (const { image, args = [] } of spec!.template!.spec.containers) {
        if (!image.startsWith("torus:") || args.length === 0) continue;
        const { command, rest } = await findCommand(rootCommand, args);
        const known = command.args as Record<string, { options?: string[] }>;
        for (const word of rest) {
          const [name, value] = word.replace(/^--/, "").split("=") as [string, string?];
          expect(Object.keys(known)).toContain(name);
          const { options } = known[name]!;
          if (options !== undefined) expect(options).toContain(value as string);
          checked++;
        }
      }
    expect(checked).toBeGreaterThan(12);
  });
});
