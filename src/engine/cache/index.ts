export { ReadCache } from "./read-cache";
