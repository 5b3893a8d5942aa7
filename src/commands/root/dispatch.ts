/**
 * From the words of a command line to the command that runs. citty parses flags and prints usage; finding the
 * command is done here, because citty takes inherited names ("constructor") for commands, drops flags written
 * before a command, runs a group's own `run` after its subcommand, and ends with 1 where wrong usage is 2.
 */
import { runCommand } from "citty";
import { type AnyCommand, checkFlags, UsageError } from "../cli";

export interface FoundCommand {
  readonly command: AnyCommand;
  /** For example ["torus", "ctl", "status"]. */
  readonly path: readonly string[];
  /** The words behind the command's name. */
  readonly rest: readonly string[];
}

/** Names by which the executable may be called, and the words each stands for. */
const CALLED_AS: Readonly<Record<string, readonly string[]>> = {
  torusd: ["daemon"],
  torusctl: ["ctl"],
  torusblk: ["blk"],
  ringtool: ["ringtool"],
  "torus-flex": ["blk", "flex"],
};

/** The command line as `torus` would have got it, whatever name the executable was called by. */
export function wordsFor(argv0: string, words: readonly string[]): readonly string[] {
  const name = argv0.slice(argv0.lastIndexOf("/") + 1);
  return Object.hasOwn(CALLED_AS, name) ? [...CALLED_AS[name]!, ...words] : words;
}

async function resolveValue<T>(value: T | (() => T | Promise<T>) | Promise<T>): Promise<T> {
  return typeof value === "function" ? (value as () => T | Promise<T>)() : value;
}

async function subCommandsOf(command: AnyCommand): Promise<ReadonlyMap<string, AnyCommand>> {
  const found = new Map<string, AnyCommand>();
  for (const [name, definition] of Object.entries((await resolveValue(command.subCommands)) ?? {})) {
    const subCommand = (await resolveValue(definition)) as AnyCommand;
    found.set(name, subCommand);
    const alias = (await resolveValue(subCommand.meta))?.alias;
    for (const other of typeof alias === "string" ? [alias] : (alias ?? [])) found.set(other, subCommand);
  }
  return found;
}

/** Asks the named subcommand only, so that starting a daemon does not load the rest of the program. */
async function findSubCommand(command: AnyCommand, name: string): Promise<AnyCommand | undefined> {
  const definitions = (await resolveValue(command.subCommands)) ?? {};
  if (Object.hasOwn(definitions, name)) return (await resolveValue(definitions[name])) as AnyCommand;
  return (await subCommandsOf(command)).get(name);
}

/** Flags that may stand before a command's name: they mean the same everywhere. */
const GLOBAL_FLAGS = new Set(["--debug", "--help", "-h", "--version"]);

/** Walks from `root` down to the command that `words` name; throws UsageError for a name nobody has. */
export async function findCommand(root: AnyCommand, words: readonly string[]): Promise<FoundCommand> {
  let command = root;
  let rest = words;
  const path = [(await resolveValue(root.meta))?.name ?? "torus"];
  const passedOn: string[] = [];
  while (command.subCommands !== undefined) {
    const nameIndex = rest.findIndex((word) => !GLOBAL_FLAGS.has(word));
    passedOn.push(...rest.slice(0, nameIndex < 0 ? rest.length : nameIndex));
    const name = nameIndex < 0 ? undefined : rest[nameIndex]!;
    rest = nameIndex < 0 ? [] : rest.slice(nameIndex + 1);
    if (name === undefined) break;
    const subCommand = name.startsWith("-") ? undefined : await findSubCommand(command, name);
    if (subCommand === undefined) {
      const what = name.startsWith("-") ? "option" : "command";
      throw new UsageError(`Unknown ${what} "${name}" for "${path.join(" ")}": see ${path.join(" ")} --help`);
    }
    command = subCommand;
    path.push(name);
  }
  return { command, path, rest: [...passedOn, ...rest] };
}

/** What citty itself refuses. */
function isParserError(error: unknown): error is Error {
  return error instanceof Error && error.name === "CLIError";
}

function asksForHelp(words: readonly string[]): boolean {
  const end = words.indexOf("--");
  return (end < 0 ? words : words.slice(0, end)).some((word) => word === "--help" || word === "-h");
}

async function usage({ command, path }: FoundCommand): Promise<string> {
  // Loaded when asked for: it brings along what the completion needs.
  const { readTree, renderUsage } = await import("../reference");
  const isPlain = !process.stdout.isTTY || Boolean(process.env.NO_COLOR) || process.env.TERM === "dumb";
  return renderUsage(await readTree(command, path), {
    width: process.stdout.columns ?? 100,
    heading: (text) => (isPlain ? text : `\u001b[1m${text}\u001b[22m`),
  });
}

/** The program's version, asked for where a command has no option of that name. */
async function asksForVersion({ command, rest }: FoundCommand): Promise<boolean> {
  return rest[0] === "--version" && !Object.hasOwn((await resolveValue(command.args)) ?? {}, "version");
}

/** Finds and runs what `words` ask for. Resolves when the command is done; throws what it throws. */
export async function dispatch(root: AnyCommand, words: readonly string[]): Promise<void> {
  const found = await findCommand(root, words);
  if (asksForHelp(found.rest)) {
    process.stdout.write(await usage(found));
    return;
  }
  if (await asksForVersion(found)) return dispatch(root, ["version"]);
  if (found.command.run === undefined) {
    const names = [...(await subCommandsOf(found.command)).keys()].join(", ");
    const path = found.path.join(" ");
    throw new UsageError(`No command given for "${path}": it has ${names}; see ${path} --help`);
  }
  const called = found.path.join(" ");
  try {
    await runCommand(found.command, { rawArgs: [...found.rest], data: called });
  } catch (error) {
    if (!isParserError(error)) throw error;
    // An unknown option may be why a word is missing, and is then what the person has to hear of.
    checkFlags(called, found.rest, (await resolveValue(found.command.args)) ?? {});
    const message = Bun.stripANSI(error.message)
      .replace(/^Missing required positional argument: /, "Missing argument ")
      .replace(/\.$/, "");
    throw new UsageError(`${message}: see ${called} --help`, error);
  }
}
