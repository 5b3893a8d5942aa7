/** Kubernetes' FlexVolume calls: see README.md. */
export { type FlexAnswer, FlexError, type FlexErrorCode } from "./answer";
export { type FlexHost, type FlexOptions, parseFlexOptions, runFlexVerb } from "./flex";
