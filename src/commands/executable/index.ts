export { type BuildInfo, buildInfo, isCompiled } from "./build-info";
export { workerEntry } from "./worker-entry";
