/**
 * `torus blk csi` in the compiled executable, asked by a real gRPC client through the specification's whole sequence:
 * every call in its order, again after it was done, and wrongly. Devices come by nbdfuse, since a test machine's
 * kernel need not have the nbd driver; the way by nbd is tried in test/vm.
 */
import { beforeAll, describe, expect } from "bun:test";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import {
  ControllerServiceCapability_RPC_Type as Rpc,
  VolumeCapability_AccessMode_Mode as Mode,
  VolumeUsage_Unit as Unit,
} from "../../src/blockdev/csi/gen/csi_pb";
import { type CsiClient, csiClient, failure } from "../support/csi-client";
import { Cluster, mountObstacle, openScene, torusBinary, waitFor } from "./harness";

const MEBIBYTE = 1024 * 1024;
const mib = (count: number) => BigInt(count * MEBIBYTE);
const mounted = (fsType = "", mode = Mode.SINGLE_NODE_WRITER) => ({
  accessType: { case: "mount" as const, value: { fsType, mountFlags: ["noatime"] } },
  accessMode: { mode },
});
const block = {
  accessType: { case: "block" as const, value: {} },
  accessMode: { mode: Mode.SINGLE_NODE_WRITER },
};

describe("the CSI driver", () => {
  const scene = openScene("csi");
  const socket = scene.path("csi.sock");
  let cluster: Cluster;
  let csi: CsiClient;

  async function startDriver(): Promise<{ stop(): Promise<number | null> }> {
    const driver = await scene.start(
      "csi",
      [
        ...[await torusBinary(), "blk", "csi", "--endpoint", `unix://${socket}`, "--node-id", "node-1"],
        ...["--attach", "fuse", "--state-dir", scene.path("state"), ...cluster.metaFlags],
      ],
      { env: cluster.environment },
    );
    await waitFor("the driver to serve", () => {
      if (!driver.running) throw new Error(driver.output());
      return driver.output().includes("Serving CSI on");
    });
    csi = csiClient(socket);
    return driver;
  }

  // After a failure mounts and loop devices are left, in the reverse order of their making.
  scene.defer(async () => {
    const mounts = readFileSync("/proc/self/mounts", "utf8").split("\n");
    for (const line of mounts.reverse()) {
      const [, path = ""] = line.split(" ");
      if (path.startsWith(`${scene.folder}/`)) await scene.attempt(["umount", "-l", path]);
    }
    const { stdout } = await scene.attempt([
      "losetup",
      "--list",
      "--noheadings",
      "--output",
      "NAME,BACK-FILE",
    ]);
    for (const line of stdout.split("\n")) {
      const [device = "", file = ""] = line.trim().split(/\s+/);
      if (file.startsWith(`${scene.folder}/`)) await scene.attempt(["losetup", "--detach", device]);
    }
  });

  let driver: { stop(): Promise<number | null> };

  beforeAll(async () => {
    cluster = await Cluster.embedded(scene, { size: "2GiB" });
    driver = await startDriver();
  }, 120_000);

  const create = (name: string, more: object = {}) =>
    csi.controller.createVolume({
      name,
      capacityRange: { requiredBytes: mib(64) },
      volumeCapabilities: [mounted()],
      ...more,
    });

  scene.test("tells who it is, what it can do, and that it is ready", async () => {
    const info = await csi.identity.getPluginInfo({});
    expect(info.name).toBe("csi.torus.storage");
    expect(info.vendorVersion).not.toBe("");
    expect((await csi.identity.probe({})).ready).toBe(true);
    expect((await csi.identity.getPluginCapabilities({})).capabilities).toHaveLength(2);
    const { capabilities } = await csi.controller.controllerGetCapabilities({});
    expect(capabilities.map((one) => one.type.value?.type)).toContain(Rpc.CREATE_DELETE_SNAPSHOT);
    expect((await csi.node.nodeGetInfo({})).nodeId).toBe("node-1");
    expect((await csi.node.nodeGetCapabilities({})).capabilities).toHaveLength(4);
    expect((statSync(socket).mode & 0o777).toString(8)).toBe("600");
  });

  scene.test("creates a volume once, whatever is asked again, and refuses what it cannot serve", async () => {
    const made = await create("pvc-1");
    expect(made.volume).toMatchObject({ volumeId: "pvc-1", capacityBytes: mib(64) });
    expect((await create("pvc-1")).volume).toMatchObject({ volumeId: "pvc-1", capacityBytes: mib(64) });
    const refusals: [string, object, string][] = [
      ["", {}, "InvalidArgument"],
      ["pvc-2", { volumeCapabilities: [] }, "InvalidArgument"],
      ["pvc-2", { volumeCapabilities: [mounted("", Mode.MULTI_NODE_MULTI_WRITER)] }, "InvalidArgument"],
      ["pvc-2", { volumeCapabilities: [mounted("ntfs")] }, "InvalidArgument"],
      [
        "pvc-2",
        { volumeCapabilities: [{ accessMode: { mode: Mode.SINGLE_NODE_WRITER } }] },
        "InvalidArgument",
      ],
      ["pvc-2", { parameters: { replicas: "3" } }, "InvalidArgument"],
      ["a/b", {}, "InvalidArgument"],
      ["pvc-1", { capacityRange: { requiredBytes: mib(128) } }, "AlreadyExists"],
      ["pvc-1", { capacityRange: { limitBytes: mib(32) } }, "AlreadyExists"],
      ["pvc-2", { capacityRange: { requiredBytes: 2n ** 50n } }, "OutOfRange"],
      ["pvc-2", { capacityRange: { requiredBytes: mib(2), limitBytes: mib(1) } }, "InvalidArgument"],
      ["pvc-2", { capacityRange: { requiredBytes: -1n } }, "InvalidArgument"],
      [
        "pvc-2",
        { volumeContentSource: { type: { case: "snapshot", value: { snapshotId: "no@such" } } } },
        "NotFound",
      ],
      [
        "pvc-2",
        { volumeContentSource: { type: { case: "volume", value: { volumeId: "none" } } } },
        "NotFound",
      ],
      ["pvc-2", { volumeContentSource: {} }, "InvalidArgument"],
    ];
    for (const [name, request, code] of refusals)
      expect([name, request, (await failure(create(name, request))).code]).toEqual([name, request, code]);
    expect(
      (await create("odd", { capacityRange: { requiredBytes: mib(64) + 1n } })).volume?.capacityBytes,
    ).toBe(mib(64) + 4096n);
    await csi.controller.deleteVolume({ volumeId: "odd" });
  });

  scene.test("two calls for one volume at once: both are right, or one is told to come again", async () => {
    const results = await Promise.allSettled([create("twice"), create("twice"), create("twice")]);
    const failed = results.filter((one) => one.status === "rejected");
    expect(failed.length).toBeLessThan(3);
    for (const one of failed) expect((await failure(Promise.reject(one.reason))).code).toBe("Aborted");
    await csi.controller.deleteVolume({ volumeId: "twice" });
  });

  scene.test("lists volumes in pages, and validates capabilities", async () => {
    for (const name of ["list-a", "list-b", "list-c"]) await create(name);
    const first = await csi.controller.listVolumes({ maxEntries: 2 });
    const second = await csi.controller.listVolumes({ maxEntries: 2, startingToken: first.nextToken });
    expect([...first.entries, ...second.entries].map((entry) => entry.volume?.volumeId)).toEqual([
      "list-a",
      "list-b",
      "list-c",
      "pvc-1",
    ]);
    expect((await failure(csi.controller.listVolumes({ startingToken: "no token" }))).code).toBe("Aborted");
    expect((await failure(csi.controller.listVolumes({ maxEntries: -1 }))).code).toBe("InvalidArgument");
    const validate = (volumeId: string, capability: ReturnType<typeof mounted>) =>
      csi.controller.validateVolumeCapabilities({ volumeId, volumeCapabilities: [capability] });
    expect((await validate("pvc-1", mounted())).confirmed?.volumeCapabilities).toHaveLength(1);
    const refused = await validate("pvc-1", mounted("", Mode.MULTI_NODE_MULTI_WRITER));
    expect(refused.confirmed).toBeUndefined();
    expect(refused.message).toContain("one node");
    expect((await failure(validate("none", mounted()))).code).toBe("NotFound");
    const capacity = await csi.controller.getCapacity({});
    expect(Number(capacity.availableCapacity)).toBeGreaterThan(MEBIBYTE);
    const none = await csi.controller.getCapacity({ volumeCapabilities: [mounted("ntfs")] });
    expect(none.availableCapacity).toBe(0n);
    for (const name of ["list-a", "list-b", "list-c"]) await csi.controller.deleteVolume({ volumeId: name });
  });

  const obstacle = mountObstacle();
  if (obstacle !== undefined) {
    console.log(`skipped: volumes on a node (${obstacle})`);
    return;
  }

  const staging = scene.path("staging");
  const pod = scene.path("pods", "one", "mount");
  const stage = (volumeId: string, capability: object = mounted("ext4"), path = staging) => {
    mkdirSync(path, { recursive: true });
    return csi.node.nodeStageVolume({ volumeId, stagingTargetPath: path, volumeCapability: capability });
  };
  const publish = (volumeId: string, targetPath: string, more: object = {}, path = staging) =>
    csi.node.nodePublishVolume({
      ...{ volumeId, targetPath, stagingTargetPath: path, volumeCapability: mounted("ext4") },
      ...more,
    });
  const unpublish = (volumeId: string, targetPath: string) =>
    csi.node.nodeUnpublishVolume({ volumeId, targetPath });
  const unstage = (volumeId: string, path = staging) =>
    csi.node.nodeUnstageVolume({ volumeId, stagingTargetPath: path });

  scene.test("stages, publishes and unpublishes a file system, each call twice", async () => {
    expect((await failure(publish("pvc-1", pod))).code).toBe("NotFound");
    expect((await failure(stage("none"))).code).toBe("NotFound");
    await stage("pvc-1");
    await stage("pvc-1");
    expect((await failure(stage("pvc-1", block))).code).toBe("AlreadyExists");
    expect((await failure(stage("pvc-1", mounted("ext4"), scene.path("elsewhere")))).code).toBe(
      "AlreadyExists",
    );
    await publish("pvc-1", pod);
    await publish("pvc-1", pod);
    expect((await failure(publish("pvc-1", pod, { readonly: true }))).code).toBe("AlreadyExists");
    writeFileSync(`${pod}/kept`, "what the container wrote");
    const reader = scene.path("pods", "two", "mount");
    await publish("pvc-1", reader, { readonly: true });
    expect(readFileSync(`${reader}/kept`, "utf8")).toBe("what the container wrote");
    expect(() => writeFileSync(`${reader}/more`, "x")).toThrow("EROFS");
    const { usage } = await csi.node.nodeGetVolumeStats({ volumeId: "pvc-1", volumePath: pod });
    expect(usage.map((one) => one.unit)).toEqual([Unit.BYTES, Unit.INODES]);
    expect(Number(usage[0]?.total)).toBeGreaterThan(32 * MEBIBYTE);
    expect(
      (await failure(csi.node.nodeGetVolumeStats({ volumeId: "pvc-1", volumePath: "/nowhere" }))).code,
    ).toBe("NotFound");
    expect((await failure(csi.node.nodeGetVolumeStats({ volumeId: "pvc-1", volumePath: "/" }))).code).toBe(
      "NotFound",
    );
    const early = await failure(unstage("pvc-1"));
    expect(early.code).toBe("FailedPrecondition");
    expect(early.message).toContain(pod);
    for (const path of [reader, reader, pod, pod]) await unpublish("pvc-1", path);
    expect(existsSync(pod)).toBe(false);
    expect((await failure(csi.controller.deleteVolume({ volumeId: "pvc-1" }))).code).toBe(
      "FailedPrecondition",
    );
  });

  scene.test("snapshots a volume in use, and makes a larger volume of the snapshot", async () => {
    const snapshot = (sourceVolumeId: string, name: string) =>
      csi.controller.createSnapshot({ sourceVolumeId, name });
    await csi.node.nodeUnstageVolume({ volumeId: "pvc-1", stagingTargetPath: staging });
    await stage("pvc-1");
    const made = await snapshot("pvc-1", "snap-1");
    expect(made.snapshot).toMatchObject({
      snapshotId: "pvc-1@snap-1",
      sourceVolumeId: "pvc-1",
      sizeBytes: mib(64),
      readyToUse: true,
    });
    expect((await snapshot("pvc-1", "snap-1")).snapshot).toEqual(made.snapshot!);
    await create("other");
    expect((await failure(snapshot("other", "snap-1"))).code).toBe("AlreadyExists");
    expect((await failure(snapshot("none", "snap-2"))).code).toBe("NotFound");
    expect((await failure(snapshot("", "snap-2"))).code).toBe("InvalidArgument");
    await snapshot("other", "snap-2");
    const ids = async (request: object) =>
      (await csi.controller.listSnapshots(request)).entries.map((entry) => entry.snapshot?.snapshotId);
    expect(await ids({})).toEqual(["other@snap-2", "pvc-1@snap-1"]);
    expect(await ids({ sourceVolumeId: "pvc-1" })).toEqual(["pvc-1@snap-1"]);
    expect(await ids({ snapshotId: "other@snap-2" })).toEqual(["other@snap-2"]);
    expect(await ids({ snapshotId: "nonsense" })).toEqual([]);
    expect(await ids({ sourceVolumeId: "none" })).toEqual([]);
    const source = { type: { case: "snapshot", value: { snapshotId: "pvc-1@snap-1" } } };
    const larger = { volumeContentSource: source, capacityRange: { requiredBytes: mib(96) } };
    expect((await create("from-snap", larger)).volume?.capacityBytes).toBe(mib(96));
    expect((await create("from-snap", larger)).volume?.contentSource?.type.case).toBe("snapshot");
    expect((await failure(create("from-snap"))).code).toBe("AlreadyExists");
    expect((await failure(create("pvc-1", larger))).code).toBe("AlreadyExists");
    await unstage("pvc-1");
    await stage("from-snap");
    await publish("from-snap", pod);
    expect(readFileSync(`${pod}/kept`, "utf8")).toBe("what the container wrote");
    const { usage } = await csi.node.nodeGetVolumeStats({ volumeId: "from-snap", volumePath: pod });
    expect(Number(usage[0]?.total)).toBeGreaterThan(64 * MEBIBYTE);
    await unpublish("from-snap", pod);
    await unstage("from-snap");
  });

  scene.test("clones a volume without leaving a snapshot behind", async () => {
    const source = { volumeContentSource: { type: { case: "volume", value: { volumeId: "pvc-1" } } } };
    expect((await create("clone", source)).volume).toMatchObject({
      volumeId: "clone",
      capacityBytes: mib(64),
    });
    expect((await create("clone", source)).volume?.capacityBytes).toBe(mib(64));
    const { entries } = await csi.controller.listSnapshots({ sourceVolumeId: "pvc-1" });
    expect(entries).toHaveLength(1);
    await stage("clone");
    await publish("clone", pod);
    expect(existsSync(`${pod}/kept`)).toBe(true);
    await unpublish("clone", pod);
    await unstage("clone");
  });

  scene.test("grows a volume, and its file system where it is next staged", async () => {
    const expand = (volumeId: string, requiredBytes: bigint) =>
      csi.controller.controllerExpandVolume({ volumeId, capacityRange: { requiredBytes } });
    const grown = await expand("clone", mib(128));
    expect(grown).toMatchObject({ capacityBytes: mib(128), nodeExpansionRequired: true });
    expect((await expand("clone", mib(128))).capacityBytes).toBe(mib(128));
    expect((await expand("clone", mib(64))).capacityBytes).toBe(mib(128));
    expect((await failure(expand("none", mib(64)))).code).toBe("NotFound");
    expect((await failure(expand("clone", 2n ** 60n))).code).toBe("OutOfRange");
    expect((await failure(csi.controller.controllerExpandVolume({ volumeId: "clone" }))).code).toBe(
      "InvalidArgument",
    );
    await stage("clone");
    await publish("clone", pod);
    const expanded = await csi.node.nodeExpandVolume({ volumeId: "clone", volumePath: pod });
    expect(expanded.capacityBytes).toBe(mib(128));
    const { usage } = await csi.node.nodeGetVolumeStats({ volumeId: "clone", volumePath: pod });
    expect(Number(usage[0]?.total)).toBeGreaterThan(100 * MEBIBYTE);
    expect((await failure(csi.node.nodeExpandVolume({ volumeId: "none", volumePath: pod }))).code).toBe(
      "NotFound",
    );
    await unpublish("clone", pod);
    await unstage("clone");
  });

  scene.test("publishes a volume as a block device", async () => {
    await create("raw", { volumeCapabilities: [block] });
    await stage("raw", block);
    const target = scene.path("pods", "one", "device");
    const request = { volumeCapability: block };
    expect((await failure(publish("raw", target))).code).toBe("InvalidArgument");
    await publish("raw", target, request);
    await publish("raw", target, request);
    expect(statSync(target).isBlockDevice()).toBe(true);
    const source = scene.path("bytes");
    writeFileSync(source, crypto.getRandomValues(new Uint8Array(65_536)));
    await scene.run(["dd", `if=${source}`, `of=${target}`, "bs=64k", "conv=fsync", "status=none"]);
    const { usage } = await csi.node.nodeGetVolumeStats({ volumeId: "raw", volumePath: target });
    expect(usage).toMatchObject([{ unit: Unit.BYTES, total: mib(64) }]);
    await unpublish("raw", target);
    expect(existsSync(target)).toBe(false);
    await unstage("raw");
    await stage("raw", block);
    await publish("raw", target, request);
    await scene.run(["cmp", "-n", "65536", source, target]);
    await unpublish("raw", target);
    await unstage("raw");
  });

  scene.test("never formats a volume that holds something else", async () => {
    await create("held");
    await stage("held");
    await unstage("held");
    mkdirSync(scene.path("occupied"));
    await scene.run(["mount", "-t", "tmpfs", "none", scene.path("occupied")]);
    const other = await failure(stage("held", mounted("ext4"), scene.path("occupied")));
    expect(other).toMatchObject({ code: "FailedPrecondition" });
    await scene.run(["umount", scene.path("occupied")]);
    await unstage("held", scene.path("occupied"));
    expect(await failure(stage("held", mounted("xfs")))).toMatchObject({ code: "FailedPrecondition" });
    await unstage("held");
  });

  scene.test("refuses a volume that another client has, and stages it when that has let go", async () => {
    const server = await cluster.serve("other-client", ["other"]);
    expect(await failure(stage("other"))).toMatchObject({ code: "FailedPrecondition" });
    expect(await server.stop()).toBe(0);
    await stage("other");
    await unstage("other");
  });

  scene.test("requests without what they need are refused", async () => {
    const calls: (() => Promise<unknown>)[] = [
      () => csi.controller.deleteVolume({}),
      () => csi.controller.deleteSnapshot({}),
      () => csi.controller.createSnapshot({ sourceVolumeId: "pvc-1" }),
      () => csi.controller.validateVolumeCapabilities({}),
      () => csi.controller.validateVolumeCapabilities({ volumeId: "pvc-1" }),
      () => csi.node.nodeStageVolume({ stagingTargetPath: staging, volumeCapability: mounted() }),
      () => csi.node.nodeStageVolume({ volumeId: "pvc-1", volumeCapability: mounted() }),
      () => csi.node.nodeStageVolume({ volumeId: "pvc-1", stagingTargetPath: staging }),
      () =>
        csi.node.nodeStageVolume({
          volumeId: "pvc-1",
          stagingTargetPath: "not/absolute",
          volumeCapability: mounted(),
        }),
      () => csi.node.nodeUnstageVolume({ volumeId: "pvc-1" }),
      () => csi.node.nodePublishVolume({ volumeId: "pvc-1" }),
      () => csi.node.nodeUnpublishVolume({ volumeId: "pvc-1" }),
      () => csi.node.nodeGetVolumeStats({ volumeId: "pvc-1" }),
      () => csi.node.nodeExpandVolume({ volumeId: "pvc-1" }),
    ];
    for (const call of calls) expect((await failure(call())).code).toBe("InvalidArgument");
  });

  scene.test(
    "deletes snapshots and volumes, again too, and volumes only without their snapshots",
    async () => {
      expect((await failure(csi.controller.deleteVolume({ volumeId: "pvc-1" }))).code).toBe(
        "FailedPrecondition",
      );
      for (const snapshotId of ["pvc-1@snap-1", "other@snap-2", "pvc-1@snap-1", "nonsense"])
        await csi.controller.deleteSnapshot({ snapshotId });
      for (const volumeId of ["pvc-1", "other", "from-snap", "clone", "raw", "held", "pvc-1", "none"])
        await csi.controller.deleteVolume({ volumeId });
      expect((await csi.controller.listVolumes({})).entries).toEqual([]);
      expect((await csi.controller.listSnapshots({})).entries).toEqual([]);
    },
  );

  scene.test("ends in order, and serves again on the socket it left", async () => {
    expect(await driver.stop()).toBe(0);
    expect(existsSync(socket)).toBe(false);
    driver = await startDriver();
    expect((await csi.identity.probe({})).ready).toBe(true);
    expect(await driver.stop()).toBe(0);
  });
});
