export { versionCommand } from "./version";
