export {
  MetaServiceHandler,
  type MetaServiceOptions,
  openMetadataStore,
  RemoteStore,
  type RemoteStoreOptions,
} from "./meta";
