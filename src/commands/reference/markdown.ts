/** The reference of all commands as one page of Markdown. */
import type { ArgDef } from "citty";
import type { CommandNode } from "./tree";
import { optionNames, optionValue, positionalName, usageLine } from "./usage";

const INTRODUCTION = `# Reference of commands

Made from the commands themselves by \`bun scripts/reference.ts\`; \`torus COMMAND --help\` shows the same. Exit codes:
0 done, 1 failed, 2 wrong usage. Data goes to standard output, everything else to standard error. What
\`--json\` prints is in [json.md](json.md).
`;

export function renderReference(root: CommandNode): string {
  return `${INTRODUCTION}${leaves(root).map(renderCommand).join("")}`;
}

function leaves(node: CommandNode): CommandNode[] {
  return node.children.length === 0 ? [node] : node.children.flatMap(leaves);
}

function renderCommand(node: CommandNode): string {
  const lines = [`\n## ${node.path.join(" ")}\n`, `    ${usageLine(node)}\n`, `${node.description}.\n`];
  if (node.aliases.length > 0)
    lines.push(`Also called ${node.aliases.map((alias) => `\`${alias}\``).join(", ")}.\n`);
  for (const [name, arg] of node.args)
    lines.push(
      arg.type === "positional"
        ? `- \`${positionalName(name)}\`: ${arg.description ?? ""}`
        : renderOption(name, arg),
    );
  if (node.examples.length > 0)
    lines.push(`\nExamples:\n\n${node.examples.map((line) => `    ${line}`).join("\n")}`);
  return `${lines.join("\n")}\n`;
}

function renderOption(name: string, arg: ArgDef): string {
  const hint = arg.type === "boolean" ? "" : ` ${optionValue(name, arg)}`;
  return `- \`${optionNames(name, arg)}${hint}\`: ${arg.description ?? ""}`;
}
