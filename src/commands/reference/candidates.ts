/**
 * What may stand where the cursor is, as the shells' completion asks for it at every press of the key. Names of
 * volumes, snapshots and peers come from metadata, asked for only where one may stand.
 */
import type { ArgDef } from "citty";
import type { CommandNode } from "./tree";

/** Names that exist in the cluster. */
export interface Names {
  volumes(): Promise<readonly string[]>;
  snapshots(volume: string): Promise<readonly string[]>;
  peers(): Promise<readonly string[]>;
}

/** `words` follow the program's name, the last is the one being typed (perhaps empty). None: files are meant. */
export async function candidates(
  root: CommandNode,
  words: readonly string[],
  names: Names,
): Promise<readonly string[]> {
  const current = words.at(-1) ?? "";
  const { node, rest } = descend(root, words.slice(0, -1));
  return (await possible(node, rest, current, names)).filter((one) => one.startsWith(current));
}

/** The command that the words name, and what follows it. */
function descend(
  root: CommandNode,
  words: readonly string[],
): { node: CommandNode; rest: readonly string[] } {
  let node = root;
  let used = 0;
  for (const [index, word] of words.entries()) {
    const child = node.children.find((one) => one.path.at(-1) === word || one.aliases.includes(word));
    if (child === undefined) break;
    node = child;
    used = index + 1;
  }
  return { node, rest: words.slice(used) };
}

async function possible(
  node: CommandNode,
  rest: readonly string[],
  current: string,
  names: Names,
): Promise<readonly string[]> {
  if (node.children.length > 0) return node.children.map((child) => child.path.at(-1) ?? "");
  const options = new Map(node.args.filter(([, arg]) => arg.type !== "positional"));
  const awaited = optionAwaitingValue(rest, options);
  if (awaited !== undefined) return valuesOf(awaited);
  if (current.startsWith("-")) return [...options.keys()].map((name) => `--${name}`);
  const position = countPositionals(rest, options);
  const positionals = node.args.filter(([, arg]) => arg.type === "positional");
  return namesFor(node, positionals[position]?.[0], current, names);
}

function optionAwaitingValue(
  rest: readonly string[],
  options: ReadonlyMap<string, ArgDef>,
): ArgDef | undefined {
  const option = optionOf(rest.at(-1), options);
  return option?.type === "boolean" ? undefined : option;
}

function valuesOf(option: ArgDef): readonly string[] {
  if (option.type === "enum") return option.options ?? [];
  const hint = option.type === "string" ? (option.valueHint ?? "") : "";
  return /^[a-z]+(\|[a-z]+)+$/.test(hint) ? hint.split("|") : [];
}

function optionOf(word: string | undefined, options: ReadonlyMap<string, ArgDef>): ArgDef | undefined {
  return word?.startsWith("--") && !word.includes("=") ? options.get(word.slice(2)) : undefined;
}

function countPositionals(rest: readonly string[], options: ReadonlyMap<string, ArgDef>): number {
  let count = 0;
  for (const [index, word] of rest.entries()) {
    const before = optionOf(rest[index - 1], options);
    if (!word.startsWith("-") && (before === undefined || before.type === "boolean")) count += 1;
  }
  return count;
}

async function namesFor(
  node: CommandNode,
  positional: string | undefined,
  current: string,
  names: Names,
): Promise<readonly string[]> {
  const [, group, branch] = node.path;
  const last = node.path.at(-1) ?? "";
  if (group === "ctl" && branch === "peer") return names.peers();
  const ofVolumes = group === "blk" || branch === "volume" || branch === "block";
  if (!ofVolumes || last.startsWith("create-block")) return [];
  const isNew = positional === "newName" || (last === "clone" && positional === "name");
  const isName =
    positional === undefined ? group === "blk" : ["name", "volume", "from", "to"].includes(positional);
  if (isNew || !isName) return [];
  const at = current.indexOf("@");
  if (at < 0) return names.volumes();
  const volume = current.slice(0, at);
  return (await names.snapshots(volume)).map((snapshot) => `${volume}@${snapshot}`);
}
