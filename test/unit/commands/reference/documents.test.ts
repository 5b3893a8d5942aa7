/** What the documents tell a person to type exists: every command line in them is parsed as the commands would. */
import { describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type CommandNode, readTree } from "../../../../src/commands/reference";
import { findCommand, rootCommand } from "../../../../src/commands/root";

const repository = join(import.meta.dir, "../../../..");
const pages = readdirSync(join(repository, "docs")).filter((name) => name.endsWith(".md"));
const read = (path: string) => readFileSync(join(repository, path), "utf8");

/** The command lines of a page: its code blocks' lines, each part of a pipe by itself, from the word torus on. */
function commandLines(text: string): string[] {
  const lines: string[] = [];
  let isFenced = false;
  for (const line of text.replaceAll("\\\n", " ").split("\n")) {
    if (line.startsWith("```")) isFenced = !isFenced;
    else if (isFenced || line.startsWith("    ")) lines.push(line);
  }
  return (
    lines
      .map((line) => line.replace(/\s#\s.*$/, "").replace(/ \[options\]$/, ""))
      .flatMap((line) => line.split(/\||&&|;|\bdo\b|\bdone\b|\$\(|<\(/))
      .map((part) => /^\s*(?:\$ |sudo |ssh \w+ |source )?(torus [^<>)&`]*)/.exec(part)?.[1]?.trim() ?? "")
      // Aligned text behind it is prose.
      .map((line) => line.replace(/\s{3,}.*$/, ""))
      .filter((line) => line !== "")
  );
}

const wordsOf = (line: string) =>
  [...line.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map(([, a, b, c]) => a ?? b ?? c ?? "");

/** What is wrong with a command line; undefined: nothing. */
async function problemOf(line: string): Promise<string | undefined> {
  const [, ...words] = wordsOf(line);
  if (words.length === 0) return undefined;
  const found = await findCommand(rootCommand, words);
  const node: CommandNode = await readTree(found.command, found.path);
  let positionals = 0;
  for (let index = 0; index < found.rest.length; index++) {
    const word = found.rest[index] ?? "";
    if (!word.startsWith("-") || word === "-") {
      positionals++;
      continue;
    }
    if (["--help", "--version", "--debug"].includes(word)) return undefined;
    const name = word.replace(/^--?/, "").replace(/=.*$/, "");
    const option = node.args.find(
      ([one, arg]) => one === name || ("alias" in arg && [arg.alias ?? []].flat().includes(name)),
    );
    if (option === undefined) return `there is no option ${word}`;
    if (option[1].type !== "boolean" && !word.includes("=")) index++;
  }
  const wanted = node.args.filter(([, arg]) => arg.type === "positional");
  const needed = wanted.filter(([, arg]) => arg.required !== false).length;
  if (node.children.length > 0) return undefined;
  if (positionals < needed) return `it needs ${needed} arguments`;
  return node.rest === undefined && positionals > wanted.length ? "it has too many arguments" : undefined;
}

describe("the documents", () => {
  test.each(["README.md", ...pages.map((name) => `docs/${name}`)])(
    "%s tells only of what there is",
    async (path) => {
      const problems: string[] = [];
      for (const line of commandLines(read(path))) {
        const problem = await problemOf(line).catch((error: Error) => error.message);
        if (problem !== undefined) problems.push(`${line}: ${problem}`);
      }
      expect(problems).toEqual([]);
    },
  );

  test("have the JSON of every command that prints it", async () => {
    const leaves = (node: CommandNode): CommandNode[] =>
      node.children.length === 0 ? [node] : node.children.flatMap(leaves);
    const page = read("docs/json.md");
    for (const { path, args } of leaves(await readTree(rootCommand, ["torus"])))
      if (args.some(([name]) => name === "json")) expect(page).toContain(`\`${path.join(" ")}\``);
  });

  test("are all named by the README, and their links lead somewhere", () => {
    const readme = read("README.md");
    for (const name of pages) expect(readme).toContain(`(docs/${name})`);
    for (const path of ["README.md", ...pages.map((name) => `docs/${name}`)])
      for (const [, target] of read(path).matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g))
        expect(readdirSync(join(repository, path, "..", target ?? "", ".."))).toContain(
          (target ?? "").split("/").at(-1) ?? "",
        );
  });
});
