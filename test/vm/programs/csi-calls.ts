/** The calls that an orchestrator makes of the CSI driver, in three parts between which the guest's script looks: `csi-calls SOCKET PART`. */
import { strict as assert } from "node:assert";
import { mkdirSync } from "node:fs";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  VolumeCapability_AccessMode_Mode as Mode,
  VolumeUsage_Unit as Unit,
} from "../../../src/blockdev/csi/gen/csi_pb";
import { csiClient } from "../../support/csi-client";

const MEBIBYTE = 1024n * 1024n;
const accessMode = { mode: Mode.SINGLE_NODE_WRITER };
const mounted = { accessType: { case: "mount" as const, value: { fsType: "ext4" } }, accessMode };
const block = { accessType: { case: "block" as const, value: {} }, accessMode };

const [socket = "", part = ""] = process.argv.slice(2);
const { controller, node } = csiClient(socket);
const PATIENCE_MS = 90_000;
const AGAIN_LATER: readonly Code[] = [Code.Unavailable, Code.Aborted, Code.DeadlineExceeded];

/** Asks again, as an orchestrator does, when the answer is that now is not the time: on a busy machine peers answer late. */
async function patiently<Value>(call: () => Promise<Value>): Promise<Value> {
  for (const startMs = performance.now(); ; await Bun.sleep(1000))
    try {
      return await call();
    } catch (error) {
      const isLater = error instanceof ConnectError && AGAIN_LATER.includes(error.code);
      if (!isLater || performance.now() - startMs > PATIENCE_MS) throw error;
    }
}

const create = (name: string, size: bigint, capability: typeof mounted | typeof block, source?: object) =>
  controller.createVolume({
    name,
    capacityRange: { requiredBytes: size * MEBIBYTE },
    volumeCapabilities: [capability],
    ...(source === undefined ? {} : { volumeContentSource: { type: source as never } }),
  });

async function use(volumeId: string, targetPath: string, volumeCapability: typeof mounted | typeof block) {
  const stagingTargetPath = `/srv/staging-${volumeId}`;
  mkdirSync(stagingTargetPath, { recursive: true });
  await patiently(() => node.nodeStageVolume({ volumeId, stagingTargetPath, volumeCapability }));
  await node.nodePublishVolume({ volumeId, stagingTargetPath, targetPath, volumeCapability });
}

async function leave(volumeId: string, targetPath: string) {
  await node.nodeUnpublishVolume({ volumeId, targetPath });
  await node.nodeUnstageVolume({ volumeId, stagingTargetPath: `/srv/staging-${volumeId}` });
  await controller.deleteVolume({ volumeId });
}

const parts: Readonly<Record<string, () => Promise<void>>> = {
  async first() {
    await create("claim", 96n, mounted);
    await use("claim", "/srv/pod", mounted);
  },
  async second() {
    const grown = { requiredBytes: 192n * MEBIBYTE };
    const { nodeExpansionRequired } = await controller.controllerExpandVolume({
      volumeId: "claim",
      capacityRange: grown,
    });
    assert.equal(nodeExpansionRequired, true);
    await node.nodeExpandVolume({
      ...{ volumeId: "claim", volumePath: "/srv/pod", stagingTargetPath: "/srv/staging-claim" },
      ...{ capacityRange: grown, volumeCapability: mounted },
    });
    const { usage } = await node.nodeGetVolumeStats({ volumeId: "claim", volumePath: "/srv/pod" });
    assert.ok((usage.find(({ unit }) => unit === Unit.BYTES)?.total ?? 0n) > 150n * MEBIBYTE);
    const { snapshot } = await patiently(() =>
      controller.createSnapshot({ sourceVolumeId: "claim", name: "one" }),
    );
    assert.equal(snapshot?.readyToUse, true);
    await create("clone", 192n, mounted, { case: "snapshot", value: { snapshotId: snapshot?.snapshotId } });
    await use("clone", "/srv/clone", mounted);
    await create("raw", 64n, block);
    await use("raw", "/srv/block", block);
    await create("copy", 192n, mounted, { case: "volume", value: { volumeId: "claim" } });
    await controller.deleteVolume({ volumeId: "copy" });
  },
  async third() {
    await leave("clone", "/srv/clone");
    await leave("raw", "/srv/block");
    await controller.deleteSnapshot({ snapshotId: "claim@one" });
    await leave("claim", "/srv/pod");
    assert.equal((await controller.listVolumes({})).entries.length, 0);
  },
};

const run = parts[part];
if (run === undefined) throw new Error(`there is no part "${part}"`);
await run();
// Connections of the client are kept for a next call that does not come.
process.exit(0);
