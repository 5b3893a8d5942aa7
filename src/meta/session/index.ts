export { MetaRegistry } from "./registry";

export { MetaVolumeSession } from "./volume-session";
