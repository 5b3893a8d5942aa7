/**
 * The room rules of the source tree, checked on the syntax tree of every file under src/: which room may import
 * which, that a folder is entered only by its index.ts, and that the rooms the simulator drives stay free of
 * I/O, time and chance. Forbidden globals, import cycles and floating promises are oxlint's part
 * (.oxlintrc.json), `export *` is Biome's; here is what neither can say. A run that checked no file fails.
 *
 *   bun scripts/rooms.ts [root]     root defaults to the repository; prints `file:line: message` per violation
 */
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { parseSync } from "oxc-parser";

export interface Violation {
  readonly file: string;
  readonly line: number;
  readonly message: string;
}

export interface RoomReport {
  readonly filesChecked: number;
  readonly violations: readonly Violation[];
}

/** What each room may import, itself aside. `main` is src/main.ts. */
const ROOMS: Readonly<Record<string, readonly string[]>> = {
  base: [],
  ring: ["base"],
  engine: ["base", "ring"],
  meta: ["base", "ring", "engine"],
  net: ["base", "ring", "engine", "meta"],
  blockdev: ["base", "ring", "engine"],
  commands: ["base", "ring", "engine", "meta", "net", "blockdev"],
  main: ["base", "commands"],
};

/** Members of `Bun` that compute and touch nothing outside the process. */
const PURE_BUN_MEMBERS = new Set([
  "CryptoHasher",
  "deepEquals",
  "deflateSync",
  "gunzipSync",
  "gzipSync",
  "hash",
  "inflateSync",
  "inspect",
  "zstdCompress",
  "zstdCompressSync",
  "zstdDecompress",
  "zstdDecompressSync",
]);

/** Modules outside the tree that a pure room may import: they compute only. */
const PURE_MODULES = new Set(["node:assert", "node:buffer", "node:util", "node:zlib"]);

interface SyntaxNode {
  readonly type: string;
  readonly start: number;
  readonly [field: string]: unknown;
}

function isNode(value: unknown): value is SyntaxNode {
  return typeof value === "object" && value !== null && typeof (value as SyntaxNode).type === "string";
}

function walk(node: SyntaxNode, visit: (node: SyntaxNode, parent: SyntaxNode | undefined) => void): void {
  const pending: [SyntaxNode, SyntaxNode | undefined][] = [[node, undefined]];
  for (let next = pending.pop(); next; next = pending.pop()) {
    const [current, parent] = next;
    visit(current, parent);
    for (const value of Object.values(current)) {
      for (const item of Array.isArray(value) ? value : [value])
        if (isNode(item)) pending.push([item, current]);
    }
  }
}

interface ImportSite {
  readonly specifier: string;
  readonly offset: number;
  readonly typeOnly: boolean;
}

function literalText(node: unknown): string | undefined {
  return isNode(node) && node.type === "Literal" && typeof node.value === "string" ? node.value : undefined;
}

function isTypeOnly(node: SyntaxNode): boolean {
  if (node.importKind === "type" || node.exportKind === "type") return true;
  const specifiers = node.specifiers as SyntaxNode[] | undefined;
  if (!specifiers || specifiers.length === 0) return false;
  return specifiers.every((one) => one.importKind === "type" || one.exportKind === "type");
}

function importSite(node: SyntaxNode): ImportSite | undefined {
  switch (node.type) {
    case "ImportDeclaration":
    case "ExportNamedDeclaration":
    case "ExportAllDeclaration":
    case "ImportExpression": {
      const specifier = literalText(node.source);
      if (specifier === undefined) return undefined;
      return { specifier, offset: node.start, typeOnly: isTypeOnly(node) };
    }
    case "TSImportType": {
      const specifier = literalText(node.source ?? node.argument);
      return specifier === undefined ? undefined : { specifier, offset: node.start, typeOnly: true };
    }
    case "TSExternalModuleReference": {
      const specifier = literalText(node.expression);
      return specifier === undefined ? undefined : { specifier, offset: node.start, typeOnly: false };
    }
    default:
      return undefined;
  }
}

function resolveSource(fromFile: string, specifier: string): string | undefined {
  const path = resolve(dirname(fromFile), specifier);
  for (const candidate of [path, `${path}.ts`, join(path, "index.ts")])
    if (existsSync(candidate) && statSync(candidate).isFile()) return candidate;
  return undefined;
}

function roomOf(sourceRoot: string, file: string): string {
  const parts = relative(sourceRoot, file).split("/");
  return parts.length === 1 ? parts[0]!.replace(/\.ts$/, "") : parts[0]!;
}

/** Whether the simulator depends on this file: everything in ring, engine and base, but base's I/O. */
function isPure(sourceRoot: string, file: string): boolean {
  const path = relative(sourceRoot, file);
  return /^(ring|engine|base)\//.test(path) && !path.startsWith("base/io/");
}

function checkImport(sourceRoot: string, file: string, site: ImportSite): string | undefined {
  const { specifier } = site;
  if (!specifier.startsWith(".")) {
    if (!isPure(sourceRoot, file) || PURE_MODULES.has(specifier)) return undefined;
    return `"${specifier}" is imported in a pure room; take what it does through a port`;
  }
  const target = resolveSource(file, specifier);
  if (target === undefined) return `"${specifier}" names no file`;
  if (target === join(sourceRoot, "../package.json")) return undefined;
  const fromRoom = roomOf(sourceRoot, file);
  const toRoom = roomOf(sourceRoot, target);
  const allowed = ROOMS[fromRoom];
  if (allowed === undefined) return `src/${fromRoom} is no room; put the file into one of them`;
  if (fromRoom !== toRoom && !allowed.includes(toRoom))
    return `${fromRoom} must not import ${toRoom} ("${specifier}")`;
  const toPath = relative(sourceRoot, target);
  if (toPath.startsWith("base/io/") && isPure(sourceRoot, file) && !site.typeOnly)
    return `"${specifier}" does real I/O; a pure room takes it through a port`;
  if (toPath.endsWith("/index.ts")) return undefined;
  // Generated code: one file a schema, nothing to hide.
  if (fromRoom === toRoom && /^(net|blockdev\/csi)\/gen\//.test(toPath)) return undefined;
  const inside = relative(dirname(target), dirname(file));
  if (fromRoom === toRoom && !inside.startsWith("..")) return undefined;
  return `"${specifier}" reaches into a folder; import its index.ts`;
}

/** The globals of which a part is harmless, so that a rule on the name alone would not do. */
function checkGlobal(node: SyntaxNode, parent: SyntaxNode | undefined): string | undefined {
  if (node.type !== "Identifier" || parent === undefined) return undefined;
  if (node.name !== "Bun" && node.name !== "Date") return undefined;
  const isMemberObject = parent.type === "MemberExpression" && parent.object === node;
  if ((parent.type === "MemberExpression" && !isMemberObject) || parent.type.startsWith("TS"))
    return undefined;
  if (parent.type === "Property" && parent.key === node && parent.value !== node) return undefined;
  const property = isMemberObject && !parent.computed ? (parent.property as SyntaxNode).name : undefined;
  if (node.name === "Bun") {
    if (typeof property === "string" && PURE_BUN_MEMBERS.has(property)) return undefined;
    return `Bun.${property ?? "*"} is used in a pure room; take what it does through a port`;
  }
  if (parent.type === "NewExpression" && (parent.arguments as unknown[]).length > 0) return undefined;
  if (property === "UTC" || property === "parse") return undefined;
  return "Date reads the wall clock in a pure room; take it from a Clock";
}

function checkFile(sourceRoot: string, root: string, file: string): Violation[] {
  const text = readFileSync(file, "utf8");
  const name = relative(root, file);
  const lineOf = (offset: number) => text.slice(0, offset).split("\n").length;
  const parsed = parseSync(file, text);
  const broken = parsed.errors[0];
  if (broken) return [{ file: name, line: 1, message: `cannot be parsed: ${broken.message}` }];
  const violations: Violation[] = [];
  const pure = isPure(sourceRoot, file);
  walk(parsed.program as unknown as SyntaxNode, (node, parent) => {
    const site = importSite(node);
    const message =
      (site && checkImport(sourceRoot, file, site)) ?? (pure ? checkGlobal(node, parent) : undefined);
    if (message !== undefined) violations.push({ file: name, line: lineOf(node.start), message });
  });
  return violations.sort((a, b) => a.line - b.line);
}

/** Checks every TypeScript file under `root`/src. */
export function checkRooms(root: string): RoomReport {
  const sourceRoot = join(root, "src");
  const files = [...new Bun.Glob("**/*.ts").scanSync({ cwd: sourceRoot, absolute: true })]
    .filter((file) => !/^(net|blockdev\/csi)\/gen\//.test(relative(sourceRoot, file)))
    .sort();
  return {
    filesChecked: files.length,
    violations: files.flatMap((file) => checkFile(sourceRoot, root, file)),
  };
}

if (import.meta.main) {
  const report = checkRooms(resolve(process.argv[2] ?? join(import.meta.dir, "..")));
  for (const { file, line, message } of report.violations) console.error(`${file}:${line}: ${message}`);
  console.log(`rooms: ${report.filesChecked} files checked, ${report.violations.length} violations`);
  process.exit(report.filesChecked > 0 && report.violations.length === 0 ? 0 : 1);
}
