export { candidates, type Names } from "./candidates";
export { completionCommand } from "./completion";
export { renderReference } from "./markdown";
export { type CommandNode, readTree } from "./tree";
export { renderUsage } from "./usage";
