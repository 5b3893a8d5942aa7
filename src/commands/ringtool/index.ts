export { ringtoolCommand } from "./command";
