export { buildInfo, isCompiled } from "./build-info";
export { workerEntry } from "./worker-entry";
