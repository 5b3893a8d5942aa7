/**
 * Lists of records as an aligned table, as JSON or as CSV, from one description of their columns. The names of the
 * JSON fields and CSV columns and their raw values (bytes, milliseconds, counts) are a stable interface for scripts;
 * titles and texts of the table are for people and may change.
 */
import type { OutputStyle } from "./style";

export type CellValue = string | number | boolean | null | readonly string[];

export interface Column<Row> {
  /** Field name in JSON and CSV, with its unit last: `usedBytes`. */
  readonly name: string;
  /** Heading on a terminal. */
  readonly title: string;
  readonly align?: "left" | "right";
  value(row: Row): CellValue;
  /** The cell on a terminal; by default the value as text. */
  text?(row: Row, style: OutputStyle): string;
}

/** The whole list as text that ends with a newline (JSON and CSV too). */
export function renderList<Row>(
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  style: OutputStyle,
): string {
  switch (style.format) {
    case "json":
      return renderJson(rows.map((row) => toObject(columns, row)));
    case "csv":
      return renderCsv([
        columns.map((column) => column.name),
        ...rows.map((row) => columns.map((column) => column.value(row))),
      ]);
    case "table":
      return renderTable(
        columns.map((column) => ({ title: column.title, align: column.align ?? "left" })),
        rows.map((row) => columns.map((column) => column.text?.(row, style) ?? plainText(column.value(row)))),
      );
  }
}

/** One record: a JSON object, two CSV lines, or a line per field on a terminal. */
export function renderRecord<Row>(columns: readonly Column<Row>[], row: Row, style: OutputStyle): string {
  if (style.format === "json") return renderJson(toObject(columns, row));
  if (style.format === "csv") return renderList(columns, [row], style);
  const width = Math.max(...columns.map((column) => Bun.stringWidth(column.title)));
  return columns
    .map((column) => {
      const text = column.text?.(row, style) ?? plainText(column.value(row));
      return `${pad(`${column.title}:`, width + 2, "left")}${text}`.trimEnd().concat("\n");
    })
    .join("");
}

export function renderJson(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}

/** RFC 4180 with bare line feeds; a field is quoted only when it must be. */
export function renderCsv(lines: readonly (readonly CellValue[])[]): string {
  return lines.map((cells) => `${cells.map((cell) => csvField(plainText(cell, " "))).join(",")}\n`).join("");
}

export interface TableColumn {
  readonly title: string;
  readonly align: "left" | "right";
}

/** Aligned by what a terminal shows (wide characters count two, colours none); the last column is not padded. */
export function renderTable(columns: readonly TableColumn[], rows: readonly (readonly string[])[]): string {
  const cleaned = rows.map((cells) => cells.map(singleLine));
  const widths = columns.map((column, index) =>
    Math.max(
      Bun.stringWidth(column.title),
      ...cleaned.slice(0, WIDTH_ROWS_MAX).map((cells) => Bun.stringWidth(cells[index] ?? "")),
    ),
  );
  const lines = [columns.map((column) => column.title), ...cleaned].map((cells) =>
    columns.map((column, index) => pad(cells[index] ?? "", widths[index] ?? 0, column.align)).join("  "),
  );
  return lines.map((line) => `${line.trimEnd()}\n`).join("");
}

/** Beyond this many rows the widths are taken from the first ones: a spread of arguments has its limits. */
const WIDTH_ROWS_MAX = 20_000;

function toObject<Row>(columns: readonly Column<Row>[], row: Row): Record<string, CellValue> {
  return Object.fromEntries(columns.map((column) => [column.name, column.value(row)]));
}

function plainText(value: CellValue, separator = ", "): string {
  if (value === null) return "";
  return typeof value === "object" ? value.join(separator) : String(value);
}

// Names come from users and from other machines: a line feed or an escape in one must not forge rows or colours.
function singleLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: finding control characters is the purpose
  return text.replace(/[\u0000-\u0008\u000a-\u001a\u001c-\u001f\u007f]/g, "?");
}

function csvField(text: string): string {
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function pad(text: string, width: number, align: "left" | "right"): string {
  const space = " ".repeat(Math.max(0, width - Bun.stringWidth(text)));
  return align === "right" ? space + text : text + space;
}
