/** The tree of commands as data, read from the commands themselves: what the reference and the completion show. */
import type { ArgDef, ArgsDef } from "citty";
import type { AnyCommand } from "../cli";

export interface CommandNode {
  /** From the program's name down: `["torus", "ctl", "status"]`. */
  readonly path: readonly string[];
  readonly description: string;
  readonly args: readonly (readonly [name: string, definition: ArgDef])[];
  readonly children: readonly CommandNode[];
}

async function resolved<T>(
  value: T | Promise<T> | (() => T | Promise<T>) | undefined,
): Promise<T | undefined> {
  return typeof value === "function" ? await (value as () => T | Promise<T>)() : await value;
}

/** Reads the whole tree below `command`; hidden commands are left out, and those that are another's alias. */
export async function readTree(command: AnyCommand, path: readonly string[]): Promise<CommandNode> {
  const meta = await resolved(command.meta);
  const args: ArgsDef = (await resolved(command.args)) ?? {};
  const subCommands = (await resolved(command.subCommands)) ?? {};
  const children: CommandNode[] = [];
  for (const [name, definition] of Object.entries(subCommands)) {
    const child = (await resolved(definition)) as AnyCommand;
    const childMeta = await resolved(child.meta);
    if (childMeta?.hidden === true) continue;
    children.push(await readTree(child, [...path, name]));
  }
  return { path, description: meta?.description?.trim() ?? "", args: Object.entries(args), children };
}
