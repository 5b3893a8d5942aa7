export { configFor, type Plan } from "./plan";
export { PLANS } from "./plans";
export { Scene } from "./scene";
