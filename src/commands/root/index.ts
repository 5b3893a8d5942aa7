export { dispatch, findCommand, wordsFor } from "./dispatch";
export { reportError } from "./report";
export { rootCommand } from "./root";
