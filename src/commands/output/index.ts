export { Progress, type ProgressOptions } from "./progress";
export { paint, renderBar, type Tone } from "./bars";
export {
  type CellValue,
  type Column,
  renderJson,
  renderList,
  renderRecord,
  renderTable,
  type TableColumn,
} from "./list";
export {
  type OutputFlags,
  type OutputFormat,
  type OutputStyle,
  outputArgs,
  outputStyle,
} from "./style";
