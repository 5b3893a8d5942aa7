/**
 * What `--help` prints: how the command is called, what it does, what it takes and whole lines to copy. Options that
 * every command has stand apart from its own, so that these are found at once.
 */
import type { ArgDef } from "citty";
import { metaArgs } from "../cli";
import { outputArgs } from "../output";
import type { CommandNode } from "./tree";

const NAME_COLUMN_MAX = 30;
const WIDTH_MIN = 60;
const WIDTH_MAX = 120;

export interface UsageStyle {
  /** Columns of the terminal. */
  readonly width: number;
  readonly heading: (text: string) => string;
}

/** `torus ctl volume resize NAME SIZE [options]` */
export function usageLine(node: CommandNode): string {
  if (node.children.length > 0) return `${node.path.join(" ")} COMMAND`;
  const positionals = node.args
    .filter(([, arg]) => arg.type === "positional")
    .map(([name, arg]) => (arg.required === false ? `[${positionalName(name)}]` : positionalName(name)));
  const options = node.args.some(([, arg]) => arg.type !== "positional") ? ["[options]"] : [];
  return [...node.path, ...positionals, ...(node.rest === undefined ? [] : [node.rest]), ...options].join(
    " ",
  );
}

export function positionalName(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter}`).toUpperCase();
}

/** `-C, --etcd` */
export function optionNames(name: string, arg: ArgDef): string {
  const aliases = "alias" in arg && arg.alias !== undefined ? [arg.alias].flat() : [];
  return [...aliases.map((alias) => `-${alias}`), `--${name}`].join(", ");
}

export function optionValue(name: string, arg: ArgDef): string {
  if (arg.type === "enum") return (arg.options ?? []).join("|");
  return ("valueHint" in arg ? arg.valueHint : undefined) ?? positionalName(name);
}

type Row = readonly [name: string, text: string];

export function renderUsage(node: CommandNode, style: UsageStyle): string {
  const sections = [usageLine(node), wrap(`${node.description}.`, "", style.width)];
  const add = (heading: string, rows: readonly Row[]) => {
    if (rows.length > 0) sections.push(`${style.heading(heading)}\n${renderRows(rows, style.width)}`);
  };
  if (node.children.length > 0) {
    add("Commands", node.children.map(childRow));
    sections.push(`${node.path.join(" ")} COMMAND --help shows options and examples`);
    return `${sections.join("\n\n")}\n`;
  }
  const options = node.args.filter(([, arg]) => arg.type !== "positional");
  const rows = (wanted: (name: string) => boolean) =>
    options.filter(([name]) => wanted(name)).map(([name, arg]) => optionRow(name, arg));
  const isShared = (name: string) => Object.hasOwn(metaArgs, name) || Object.hasOwn(outputArgs, name);
  add(
    "Arguments",
    node.args
      .filter(([, arg]) => arg.type === "positional")
      .map(([name, arg]) => [positionalName(name), arg.description ?? ""]),
  );
  add(
    "Options",
    rows((name) => !isShared(name)),
  );
  add(
    "Output",
    rows((name) => Object.hasOwn(outputArgs, name)),
  );
  add(
    "Where the cluster is (or TORUS_META, or a profile: torus ctl config)",
    rows((name) => Object.hasOwn(metaArgs, name)),
  );
  if (node.examples.length > 0)
    sections.push(`${style.heading("Examples")}\n${node.examples.map((line) => `  ${line}`).join("\n")}`);
  return `${sections.join("\n\n")}\n`;
}

function childRow(child: CommandNode): Row {
  const others = child.aliases.length === 0 ? "" : ` (also: ${child.aliases.join(", ")})`;
  return [child.path.at(-1) ?? "", `${child.description}${others}`];
}

function optionRow(name: string, arg: ArgDef): Row {
  const value = arg.type === "boolean" ? "" : ` ${optionValue(name, arg)}`;
  const preset = arg.default === undefined || arg.default === false ? "" : ` (default ${arg.default})`;
  return [`${optionNames(name, arg)}${value}`, `${arg.description ?? ""}${preset}`];
}

/** Two columns; a name too wide for the first has a line of its own. */
function renderRows(rows: readonly Row[], width: number): string {
  const widest = Math.max(
    ...rows.map(([name]) => name.length).filter((length) => length <= NAME_COLUMN_MAX),
    0,
  );
  const indent = " ".repeat(widest + 4);
  return rows
    .map(([name, text]) => {
      const wrapped = wrap(text, indent, width);
      if (name.length > widest) return `  ${name}\n${wrapped}`;
      return `  ${name.padEnd(widest)}  ${wrapped.trimStart()}`;
    })
    .join("\n");
}

function wrap(text: string, indent: string, width: number): string {
  const limit = Math.min(WIDTH_MAX, Math.max(WIDTH_MIN, width));
  const lines: string[] = [];
  let line = indent;
  for (const word of text.split(" ")) {
    if (line.length > indent.length && line.length + word.length > limit) {
      lines.push(line.trimEnd());
      line = indent;
    }
    line += `${word} `;
  }
  return [...lines, line.trimEnd()].join("\n");
}
