export type { ScrubProgressStore } from "./progress";
export { type ScrubOptions, Scrubber, type ScrubStatus } from "./scrubber";
