export { certCommand } from "./command";
