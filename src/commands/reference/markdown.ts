/** The reference of all commands as one page of Markdown. */
import type { ArgDef } from "citty";
import type { CommandNode } from "./tree";

const INTRODUCTION = `# Reference of commands

Made from the commands themselves by \`bun scripts/reference.ts\`; \`torus COMMAND --help\` shows the same. Exit codes:
0 done, 1 failed, 2 wrong usage. Data goes to standard output, everything else to standard error. JSON of lists is an
array of objects, of single things an object; fields end in their unit (\`sizeBytes\`, \`createdMs\` since 1970), and new
ones may be added.
`;

export function renderReference(root: CommandNode): string {
  return `${INTRODUCTION}${leaves(root).map(renderCommand).join("")}`;
}

function leaves(node: CommandNode): CommandNode[] {
  return node.children.length === 0 ? [node] : node.children.flatMap(leaves);
}

function renderCommand(node: CommandNode): string {
  const [description, ...examples] = node.description.split("\n\n");
  const positionals = node.args.filter(([, arg]) => arg.type === "positional");
  const options = node.args.filter(([, arg]) => arg.type !== "positional");
  const usage = positionals.map(([name, arg]) => (arg.required === false ? `[${upper(name)}]` : upper(name)));
  const lines = [
    `\n## ${node.path.join(" ")}\n`,
    `    ${[...node.path, ...usage, ...(options.length > 0 ? ["[options]"] : [])].join(" ")}\n`,
    `${description}.\n`,
    ...positionals.map(([name, arg]) => `- \`${upper(name)}\`: ${arg.description ?? ""}`),
    ...options.map(renderOption),
  ];
  const shown = examples.join("\n").trimEnd();
  if (shown !== "") lines.push(`\nExamples:\n\n${indent(shown)}`);
  return `${lines.join("\n")}\n`;
}

function renderOption([name, arg]: readonly [string, ArgDef]): string {
  const hint = arg.type === "boolean" ? "" : ` ${optionValue(name, arg)}`;
  const aliases = "alias" in arg && arg.alias !== undefined ? [arg.alias].flat() : [];
  const names = [...aliases.map((alias) => `-${alias}`), `--${name}`].join(", ");
  return `- \`${names}${hint}\`: ${arg.description ?? ""}`;
}

function optionValue(name: string, arg: ArgDef): string {
  if (arg.type === "enum") return (arg.options ?? []).join("|");
  return ("valueHint" in arg ? arg.valueHint : undefined) ?? upper(name);
}

function upper(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter}`).toUpperCase();
}

function indent(text: string): string {
  return text
    .split("\n")
    .map((line) => `    ${line.trim()}`)
    .join("\n");
}
