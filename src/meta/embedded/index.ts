export { EmbeddedStore } from "./embedded-store";
export { openMemoryStore } from "./memory-store";
export { openSqliteStore } from "./sqlite-store";
