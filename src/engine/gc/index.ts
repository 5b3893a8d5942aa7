export { type CollectorOptions, type CollectorStatus, GarbageCollector } from "./collector";
