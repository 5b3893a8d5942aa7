export { dispatch, type FoundCommand, findCommand, wordsFor } from "./dispatch";
export { type ErrorReport, reportError } from "./report";
export { rootCommand } from "./root";
