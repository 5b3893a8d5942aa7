export { buildInfo } from "./build-info";
export { workerEntry } from "./worker-entry";
