export type { RebalanceState, RebalanceStatus } from "./progress";
export { type RebalanceOptions, Rebalancer } from "./rebalancer";
