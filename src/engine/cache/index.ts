export { type CacheSpace, ReadCache, type ReadCacheStatistics } from "./read-cache";
