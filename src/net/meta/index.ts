export { openMetadataStore } from "./open";
export { RemoteStore, type RemoteStoreOptions } from "./remote-store";
export { MetaServiceHandler, type MetaServiceOptions } from "./service";
