/** The CSI identity service: who the driver is, and whether it is ready. */
import type { ServiceImpl } from "@connectrpc/connect";
import {
  type Identity,
  PluginCapability_Service_Type as ServiceType,
  PluginCapability_VolumeExpansion_Type as ExpansionType,
} from "./gen/csi_pb";
import type { VolumeService } from "./ports";

/** As manifests name it. */
export const DRIVER_NAME = "csi.torus.storage";

export function identityService(version: string, volumes: VolumeService): ServiceImpl<typeof Identity> {
  return {
    getPluginInfo: () => ({ name: DRIVER_NAME, vendorVersion: version }),
    getPluginCapabilities: () => ({
      capabilities: [
        { type: { case: "service", value: { type: ServiceType.CONTROLLER_SERVICE } } },
        { type: { case: "volumeExpansion", value: { type: ExpansionType.ONLINE } } },
      ],
    }),
    async probe() {
      await volumes.probe();
      return { ready: true };
    },
  };
}
