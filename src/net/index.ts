export {
  MetaServiceHandler,
  openMetadataStore,
  RemoteStore,
} from "./meta";
