export { MetaRegistry, type RegistryOptions } from "./registry";
export { MetaSnapshotSession } from "./snapshot-session";
export { MetaVolumeSession } from "./volume-session";
