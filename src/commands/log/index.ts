export { type Logger, type LogLevel, makeLogger } from "./log";
