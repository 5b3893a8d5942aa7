/** The tree of commands as data, read from the commands themselves: what the reference and the completion show. */
import type { ArgDef, ArgsDef } from "citty";
import type { AnyCommand, LeafMeta } from "../cli";

export interface CommandNode {
  /** From the program's name down: `["torus", "ctl", "status"]`. */
  readonly path: readonly string[];
  readonly description: string;
  /** Other names in the same place. */
  readonly aliases: readonly string[];
  /** Whole command lines. */
  readonly examples: readonly string[];
  /** Further words behind the positional arguments, as the usage shows them: `VOLUME...`. */
  readonly rest: string | undefined;
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
  const meta: LeafMeta | undefined = await resolved(command.meta);
  const args: ArgsDef = (await resolved(command.args)) ?? {};
  const subCommands = (await resolved(command.subCommands)) ?? {};
  const children: CommandNode[] = [];
  for (const [name, definition] of Object.entries(subCommands)) {
    const child = (await resolved(definition)) as AnyCommand;
    const childMeta = await resolved(child.meta);
    if (childMeta?.hidden === true) continue;
    children.push(await readTree(child, [...path, name]));
  }
  return {
    path,
    description: meta?.description ?? "",
    aliases: [meta?.alias ?? []].flat().filter((alias) => alias !== path.at(-1)),
    examples: meta?.examples ?? [],
    rest: meta?.variadic,
    args: Object.entries(args),
    children,
  };
}
