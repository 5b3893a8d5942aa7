export { Faults, type FaultOptions } from "./faults";
