export { openMetadataStore } from "./open";
export { RemoteStore } from "./remote-store";
export { MetaServiceHandler } from "./service";
