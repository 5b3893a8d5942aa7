/**
 * How every command is declared. A thin layer over citty, which parses flags and prints usage but lets unknown
 * flags, empty values and surplus arguments pass; an administrator's typing error must never be taken for
 * something else, so a leaf command checks them all, prints one line and ends with exit code 2.
 */
import type { AnyCommand } from "./any-command";
import { type ArgsDef, type CommandDef, type CommandMeta, defineCommand, type ParsedArgs } from "citty";
import { UsageError } from "./errors";

export interface LeafOptions<Args extends ArgsDef> {
  readonly name: string;
  readonly description: string;
  /** Whole command lines, shown by --help. */
  readonly examples: readonly string[];
  readonly args: Args;
  /** Further positional arguments as the usage shows them; without it a surplus argument is wrong usage. */
  readonly variadic?: string;
  readonly hidden?: boolean;
  readonly alias?: readonly string[];
  /** Options that take a list with commas: given twice they would lose the first one's, so that is wrong usage. */
  readonly lists?: readonly string[];
  run(args: ParsedArgs<Args>, rest: readonly string[]): void | Promise<void>;
}

/** What the help and the reference show beyond what citty knows. */
export interface LeafMeta extends CommandMeta {
  readonly examples?: readonly string[];
  readonly variadic?: string;
}

function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** Flag names a command accepts, long and short, in the spellings citty takes. */
function acceptedFlags(definitions: ArgsDef): Set<string> {
  const accepted = new Set<string>(["help", "h", "debug"]);
  for (const [name, definition] of Object.entries(definitions)) {
    if (definition.type === "positional") continue;
    accepted.add(name);
    accepted.add(kebab(name));
    const aliases = "alias" in definition ? definition.alias : undefined;
    for (const alias of Array.isArray(aliases) ? aliases : aliases === undefined ? [] : [aliases])
      accepted.add(alias);
    if (definition.type === "boolean") accepted.add(`no-${name}`);
  }
  return accepted;
}

/** Throws UsageError for flags nobody declared. citty has parsed already; this looks at what the person typed. */
export function checkFlags(command: string, raw: readonly string[], definitions: ArgsDef): void {
  const accepted = acceptedFlags(definitions);
  const takesValue = new Set<string>();
  for (const [name, definition] of Object.entries(definitions)) {
    if (definition.type !== "string" && definition.type !== "enum") continue;
    takesValue.add(name);
    const aliases = definition.alias;
    for (const alias of Array.isArray(aliases) ? aliases : aliases === undefined ? [] : [aliases])
      takesValue.add(alias);
  }
  for (let position = 0; position < raw.length; position++) {
    const word = raw[position] ?? "";
    if (word === "--") return;
    if (!word.startsWith("-") || word === "-") continue;
    const equals = word.indexOf("=");
    const name = (equals < 0 ? word : word.slice(0, equals)).replace(/^--?/, "");
    if (/^-\d/.test(word))
      throw new UsageError(
        `"${word}" is negative, which nothing of "${command}" may be: see ${command} --help`,
      );
    if (!accepted.has(name))
      throw new UsageError(`Unknown option ${word} for "${command}": see ${command} --help`);
    if (!takesValue.has(name)) continue;
    const value = equals < 0 ? raw[++position] : word.slice(equals + 1);
    if (value === undefined || value === "")
      throw new UsageError(`Option --${name} of "${command}" needs a value: see ${command} --help`);
  }
}

/** Throws UsageError for a list that is given in two options instead of one. */
function checkLists(command: string, raw: readonly string[], lists: readonly string[]): void {
  for (const name of lists) {
    const count = raw.filter((word) => word === `--${name}` || word.startsWith(`--${name}=`)).length;
    if (count > 1)
      throw new UsageError(`Give --${name} of "${command}" once, with commas between its values`);
  }
}

/** A command that does something. */
export function leaf<const Args extends ArgsDef>(options: LeafOptions<Args>): CommandDef<Args> {
  const { name, description, examples, variadic, hidden, alias, lists = [] } = options;
  const meta: LeafMeta = {
    ...{ name, description, examples },
    ...(variadic === undefined ? {} : { variadic }),
    ...(hidden === undefined ? {} : { hidden }),
    ...(alias === undefined ? {} : { alias: [...alias] }),
  };
  return defineCommand<Args>({
    meta,
    args: options.args,
    async run(context) {
      // How the command was called, when the dispatcher says so: "torus ctl volume list".
      const called = typeof context.data === "string" ? context.data : name;
      checkFlags(called, context.rawArgs, options.args);
      checkLists(called, context.rawArgs, lists);
      const positionals = Object.values(options.args as ArgsDef).filter(
        (a) => a.type === "positional",
      ).length;
      const words = context.args._ as readonly string[];
      const rest = words.slice(positionals);
      if (rest.length > 0 && variadic === undefined)
        throw new UsageError(`Unexpected argument "${rest[0]}" for "${called}": see ${called} --help`);
      await options.run(context.args, rest);
    },
  });
}

/** A command that only holds others. It has no `run`: citty would run it after the subcommand as well. */
export function group(
  name: string,
  description: string,
  subCommands: Record<string, AnyCommand | (() => Promise<AnyCommand>)>,
): AnyCommand {
  return defineCommand({ meta: { name, description }, subCommands });
}
