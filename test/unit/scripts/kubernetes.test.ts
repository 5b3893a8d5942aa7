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

interface LooseContainer {
  readonly args?: readonly string[];
  readonly ports?: readonly { readonly name: string }[];
  readonly livenessProbe?: { readonly httpGet?: { readonly port: string } };
  readonly readinessProbe?: { readonly httpGet?: { readonly port: string } };
  readonly volumeMounts?: readonly { readonly name: string; readonly mountPath: string }[];
}

/** The part of Kubernetes' API that the manifests use: "map" is a map of strings, an array a list of its first. */
type Type = "string" | "number" | "boolean" | "map" | readonly [Type] | { readonly [field: string]: Type };

const Metadata: Type = { name: "string", namespace: "string", labels: "map", annotations: "map" };
const Selector: Type = { matchLabels: "map" };
const Env: Type = {
  name: "string",
  value: "string",
  valueFrom: { fieldRef: { fieldPath: "string" }, secretKeyRef: { name: "string", key: "string" } },
};
const Probe: Type = {
  httpGet: { path: "string", port: "string" },
  exec: { command: ["string"] },
  periodSeconds: "number",
  failureThreshold: "number",
};
const Container: Type = {
  name: "string",
  image: "string",
  imagePullPolicy: "string",
  command: ["string"],
  args: ["string"],
  env: [Env],
  ports: [{ name: "string", containerPort: "number" }],
  volumeMounts: [{ name: "string", mountPath: "string", readOnly: "boolean", mountPropagation: "string" }],
  livenessProbe: Probe,
  readinessProbe: Probe,
  securityContext: { privileged: "boolean" },
};
const PodSpec: Type = {
  affinity: {
    podAntiAffinity: {
      requiredDuringSchedulingIgnoredDuringExecution: [{ labelSelector: Selector, topologyKey: "string" }],
    },
  },
  containers: [Container],
  dnsPolicy: "string",
  hostNetwork: "boolean",
  priorityClassName: "string",
  restartPolicy: "string",
  securityContext: { fsGroup: "number" },
  serviceAccountName: "string",
  terminationGracePeriodSeconds: "number",
  tolerations: [{ operator: "string" }],
  volumes: [{ name: "string", hostPath: { path: "string", type: "string" }, emptyDir: {} }],
};
const Template: Type = { metadata: Metadata, spec: PodSpec };
const Resources: Type = { requests: "map" };
const ClaimSpec: Type = {
  storageClassName: "string",
  accessModes: ["string"],
  dataSource: { apiGroup: "string", kind: "string", name: "string" },
  resources: Resources,
};
const Reference: Type = { apiGroup: "string", kind: "string", name: "string", namespace: "string" };

function kindOf(apiVersion: string, fields: { readonly [field: string]: Type }): readonly [string, Type] {
  return [apiVersion, { apiVersion: "string", kind: "string", metadata: Metadata, ...fields }];
}

const KINDS: Readonly<Record<string, readonly [string, Type]>> = {
  Namespace: kindOf("v1", {}),
  Secret: kindOf("v1", { stringData: "map" }),
  ServiceAccount: kindOf("v1", {}),
  Service: kindOf("v1", {
    spec: {
      clusterIP: "string",
      publishNotReadyAddresses: "boolean",
      selector: "map",
      ports: [{ name: "string", port: "number" }],
    },
  }),
  PersistentVolumeClaim: kindOf("v1", { spec: ClaimSpec }),
  PersistentVolume: kindOf("v1", {
    spec: {
      capacity: "map",
      accessModes: ["string"],
      persistentVolumeReclaimPolicy: "string",
      storageClassName: "string",
      claimRef: { apiVersion: "string", kind: "string", namespace: "string", name: "string" },
      hostPath: { path: "string", type: "string" },
      nodeAffinity: {
        required: {
          nodeSelectorTerms: [
            { matchExpressions: [{ key: "string", operator: "string", values: ["string"] }] },
          ],
        },
      },
    },
  }),
  PodDisruptionBudget: kindOf("policy/v1", { spec: { maxUnavailable: "number", selector: Selector } }),
  Job: kindOf("batch/v1", { spec: { backoffLimit: "number", template: Template } }),
  StatefulSet: kindOf("apps/v1", {
    spec: {
      serviceName: "string",
      replicas: "number",
      podManagementPolicy: "string",
      selector: Selector,
      template: Template,
      volumeClaimTemplates: [{ metadata: Metadata, spec: ClaimSpec }],
    },
  }),
  Deployment: kindOf("apps/v1", {
    spec: { replicas: "number", strategy: { type: "string" }, selector: Selector, template: Template },
  }),
  DaemonSet: kindOf("apps/v1", {
    spec: {
      selector: Selector,
      updateStrategy: { rollingUpdate: { maxUnavailable: "number" } },
      template: Template,
    },
  }),
  CSIDriver: kindOf("storage.k8s.io/v1", {
    spec: {
      attachRequired: "boolean",
      podInfoOnMount: "boolean",
      fsGroupPolicy: "string",
      volumeLifecycleModes: ["string"],
    },
  }),
  StorageClass: kindOf("storage.k8s.io/v1", {
    provisioner: "string",
    parameters: "map",
    reclaimPolicy: "string",
    allowVolumeExpansion: "boolean",
    volumeBindingMode: "string",
  }),
  ClusterRole: kindOf("rbac.authorization.k8s.io/v1", {
    rules: [{ apiGroups: ["string"], resources: ["string"], verbs: ["string"] }],
  }),
  ClusterRoleBinding: kindOf("rbac.authorization.k8s.io/v1", { roleRef: Reference, subjects: [Reference] }),
  VolumeSnapshotClass: kindOf("snapshot.storage.k8s.io/v1", { driver: "string", deletionPolicy: "string" }),
  VolumeSnapshot: kindOf("snapshot.storage.k8s.io/v1", {
    spec: { volumeSnapshotClassName: "string", source: { persistentVolumeClaimName: "string" } },
  }),
};

/** What of a value is not as its type says. */
function misspelt(value: unknown, type: Type, path: string): string[] {
  if (typeof type === "string" && type !== "map")
    return typeof value === type ? [] : [`${path} is no ${type}`];
  if (Array.isArray(type))
    return Array.isArray(value)
      ? value.flatMap((one, index) => misspelt(one, type[0] as Type, `${path}[${index}]`))
      : [`${path} is no list`];
  if (typeof value !== "object" || value === null || Array.isArray(value)) return [`${path} is no map`];
  return Object.entries(value).flatMap(([field, one]) => {
    const known = type === "map" ? "string" : (type as Readonly<Record<string, Type>>)[field];
    return known === undefined ? [`${path}.${field} is no field`] : misspelt(one, known, `${path}.${field}`);
  });
}

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

  test("spells every field as Kubernetes' API does, with values of the right type", () => {
    for (const manifest of manifests) {
      const { kind } = manifest;
      expect(Object.keys(KINDS)).toContain(kind);
      const [apiVersion, type] = KINDS[kind] as [string, Type];
      expect([kind, (manifest as unknown as { apiVersion: string }).apiVersion]).toEqual([kind, apiVersion]);
      expect(misspelt(manifest, type, `${kind} ${manifest.metadata.name}`)).toEqual([]);
    }
  });

  test("the check of the fields finds what is wrong", () => {
    const pod = { containers: [{ name: "a", image: "b", volumeMount: [], args: [1] }], hostNetwork: "yes" };
    expect(misspelt(pod, PodSpec, "pod")).toEqual([
      "pod.containers[0].volumeMount is no field",
      "pod.containers[0].args[0] is no string",
      "pod.hostNetwork is no boolean",
    ]);
  });

  test("probes and services name ports that are there, containers share one socket", () => {
    for (const { metadata, spec } of workloads) {
      const pod = spec!.template!.spec as unknown as { containers: LooseContainer[] };
      for (const container of pod.containers) {
        const ports = (container.ports ?? []).map(({ name }) => name);
        for (const probe of [container.livenessProbe, container.readinessProbe])
          if (probe?.httpGet !== undefined)
            expect([metadata.name, ports]).toEqual([
              metadata.name,
              expect.arrayContaining([probe.httpGet.port]),
            ]);
        const socket = container.args?.find((word) => word.startsWith("--csi-address="));
        if (socket === undefined) continue;
        const folder = socket.replace(/^--csi-address=(.*)\/[^/]+$/, "$1");
        const mount = container.volumeMounts?.find(({ mountPath }) => mountPath === folder)?.name;
        const server = pod.containers.find(({ args }) => args?.includes("csi")) as LooseContainer;
        const served = server.args
          ?.find((word) => word.startsWith("--endpoint="))
          ?.replace(/^--endpoint=unix:\/\/(.*)\/[^/]+$/, "$1");
        expect([
          metadata.name,
          server.volumeMounts?.find(({ mountPath }) => mountPath === served)?.name,
        ]).toEqual([metadata.name, mount]);
      }
    }
  });
});
