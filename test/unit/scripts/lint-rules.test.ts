/**
 * Every lint rule of the house against a sample that breaks it, in a tree of its own: a rule that is misspelt,
 * switched off or looks in the wrong folder fails here. The clean twin beside each shows that the rule does not
 * fire on everything.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { checkRooms } from "../../../scripts/rooms";

const repository = join(import.meta.dir, "../../..");
let base: string;

setDefaultTimeout(120_000);

beforeAll(() => {
  base = mkdtempSync(join(tmpdir(), "torus-lint-"));
});
afterAll(() => rmSync(base, { recursive: true }));

function tree(files: Record<string, string>): string {
  const root = mkdtempSync(join(base, "tree-"));
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

const ROOM_FILES = {
  "src/base/index.ts": "export const one = 1;\n",
  "src/base/errors.ts": "export const two = 2;\n",
  "src/base/io/index.ts": "export const socket = 3;\nexport type Stream = number;\n",
  "src/ring/index.ts": "export const ring = 4;\n",
  "src/engine/index.ts": "export const engine = 5;\n",
  "src/engine/ports.ts": "export const ports = 5;\n",
  "src/engine/log/index.ts": "export const log = 6;\n",
  "src/engine/log/seal.ts": "export const seal = 6;\n",
  "src/meta/index.ts": "export const meta = 7;\n",
  "src/net/index.ts": "export const net = 8;\n",
  "src/commands/index.ts": "export const commands = 9;\n",
};

function messages(path: string, text: string): string[] {
  const report = checkRooms(tree({ ...ROOM_FILES, [path]: text }));
  expect(report.filesChecked).toBe(Object.keys(ROOM_FILES).length + (path in ROOM_FILES ? 0 : 1));
  expect(report.violations.every((one) => one.file === path && one.line === 1)).toBe(true);
  return report.violations.map((one) => one.message);
}

describe("checkRooms reports", () => {
  test.each([
    ["src/ring/a.ts", `import { engine } from "../engine";`, `ring must not import engine ("../engine")`],
    ["src/engine/a.ts", `import type { meta } from "../meta";`, `engine must not import meta ("../meta")`],
    ["src/meta/a.ts", `export { net } from "../net";`, `meta must not import net ("../net")`],
    ["src/blockdev/nbd/a.ts", `await import("../../net");`, `blockdev must not import net ("../../net")`],
    ["src/blockdev/a.ts", `type X = import("../meta").meta;`, `blockdev must not import meta ("../meta")`],
    ["src/net/a.ts", `import "../commands";`, `net must not import commands ("../commands")`],
    ["src/base/a.ts", `import { ring } from "../ring";`, `base must not import ring ("../ring")`],
    [
      "src/ring/a.ts",
      `import { two } from "../base/errors";`,
      `"../base/errors" reaches into a folder; import its index.ts`,
    ],
    [
      "src/engine/store/a.ts",
      `import { seal } from "../log/seal";`,
      `"../log/seal" reaches into a folder; import its index.ts`,
    ],
    [
      "src/engine/a.ts",
      `import { seal } from "./log/seal";`,
      `"./log/seal" reaches into a folder; import its index.ts`,
    ],
    [
      "src/engine/a.ts",
      `import { socket } from "../base/io";`,
      `"../base/io" does real I/O; a pure room takes it through a port`,
    ],
    ["src/ring/a.ts", `import { x } from "./absent";`, `"./absent" names no file`],
    [
      "src/extra/a.ts",
      `import { one } from "../base";`,
      "src/extra is no room; put the file into one of them",
    ],
    [
      "src/engine/a.ts",
      `import fs from "node:fs";`,
      `"node:fs" is imported in a pure room; take what it does through a port`,
    ],
    [
      "src/base/a.ts",
      `import net from "node:net";`,
      `"node:net" is imported in a pure room; take what it does through a port`,
    ],
    ["src/ring/a.ts", `Bun.file("x");`, "Bun.file is used in a pure room; take what it does through a port"],
    [
      "src/ring/a.ts",
      `const { connect } = Bun;`,
      "Bun.* is used in a pure room; take what it does through a port",
    ],
    ["src/engine/a.ts", `new Date();`, "Date reads the wall clock in a pure room; take it from a Clock"],
    [
      "src/engine/a.ts",
      `const { now } = Date;`,
      "Date reads the wall clock in a pure room; take it from a Clock",
    ],
  ])("%s: %s", (path, text, message) => {
    expect(messages(path, text)).toEqual([message]);
  });

  test.each([
    ["src/ring/a.ts", `import { one } from "../base"; Bun.hash("x"); new Date(5);`],
    ["src/engine/log/b.ts", `import { ports } from "../ports"; import { seal } from "./seal";`],
    [
      "src/engine/log/b.ts",
      `import type { Stream } from "../../base/io"; const x = { Date: 1, Bun: 2 }; x.Bun;`,
    ],
    [
      "src/base/io/b.ts",
      `import { two } from "../errors"; import fs from "node:fs"; Bun.file("x"); Date.now();`,
    ],
    ["src/commands/a.ts", `import { net } from "../net"; import { log } from "../engine/log"; Date.now();`],
  ])("nothing on %s: %s", (path, text) => {
    expect(messages(path, text)).toEqual([]);
  });

  test("no file checked, so that an empty tree cannot pass", () => {
    expect(checkRooms(tree({ "src/README.md": "" }))).toEqual({ filesChecked: 0, violations: [] });
    const root = tree({ "src/README.md": "" });
    const run = Bun.spawnSync([process.execPath, join(repository, "scripts/rooms.ts"), root]);
    expect(run.exitCode).toBe(1);
    expect(run.stdout.toString()).toBe("rooms: 0 files checked, 0 violations\n");
  });
});

/** Runs one of the linters of package.json with the repository's configuration over a tree; its whole output. */
function lint(tool: "oxlint" | "biome", files: Record<string, string>): { exitCode: number; output: string } {
  const root = tree({
    "tsconfig.json": `{"compilerOptions":{"strict":true,"target":"ESNext","module":"Preserve","noEmit":true,"types":[]}}`,
    ...files,
  });
  symlinkSync(join(repository, "node_modules"), join(root, "node_modules"));
  for (const name of [".oxlintrc.json", "biome.json"]) cpSync(join(repository, name), join(root, name));
  const args =
    tool === "oxlint"
      ? ["--deny-warnings", "-f", "unix", "src"]
      : ["lint", "--error-on-warnings", "--reporter=github", "src"];
  const run = Bun.spawnSync(
    [process.execPath, "--bun", join(repository, "node_modules/.bin", tool), ...args],
    {
      cwd: root,
      timeout: 60_000,
    },
  );
  return { exitCode: run.exitCode, output: run.stdout.toString() + run.stderr.toString() };
}

describe("oxlint reports", () => {
  const impure = [
    ["performance.now()", "Unexpected use of 'performance'"],
    ["setTimeout(() => {}, 1)", "Unexpected use of 'setTimeout'"],
    ["setInterval(() => {}, 1)", "Unexpected use of 'setInterval'"],
    ["setImmediate(() => {})", "Unexpected use of 'setImmediate'"],
    [`fetch("x").catch(String)`, "Unexpected use of 'fetch'"],
    ["process.exit()", "Unexpected use of 'process'"],
    ["globalThis.origin", "Unexpected use of 'globalThis'"],
    ["crypto.randomUUID()", "Unexpected use of 'crypto'"],
    ["Math.random()", "'Math.random' is restricted"],
    ["Date.now()", "'Date.now' is restricted"],
  ] as const;

  test("each forbidden global in ring, engine and base, and none of them in base/io", () => {
    const text = `${impure.map(([code], index) => `export const x${index} = () => ${code};`).join("\n")}\n`;
    for (const room of ["src/ring", "src/engine/log", "src/base"]) {
      const { exitCode, output } = lint("oxlint", { [`${room}/a.ts`]: text });
      expect(exitCode).toBe(1);
      impure.forEach(([, message], index) => {
        const line = output.split("\n").find((one) => one.startsWith(`${room}/a.ts:${index + 1}:`));
        expect(line).toContain(message);
      });
    }
    expect(lint("oxlint", { "src/base/io/a.ts": text, "src/net/b.ts": text }).exitCode).toBe(0);
  });

  test("a floating promise, by its type", () => {
    const text = "declare function later(): Promise<number>;\nexport function f() {\n  later();\n}\n";
    const { exitCode, output } = lint("oxlint", { "src/net/a.ts": text });
    expect(output).toContain("src/net/a.ts:3:3: Promises must be awaited");
    expect(exitCode).toBe(1);
    expect(
      lint("oxlint", { "src/net/a.ts": text.replace("later();\n}", "later().catch(String);\n}") }).exitCode,
    ).toBe(0);
  });

  test("a cycle of imports", () => {
    const { exitCode, output } = lint("oxlint", {
      "src/net/a.ts": `import { b } from "./b";\nexport const a = () => b;\n`,
      "src/net/b.ts": `import { a } from "./a";\nexport const b = () => a;\n`,
    });
    expect(output).toContain("Dependency cycle detected");
    expect(exitCode).toBe(1);
  });
});

describe("biome reports", () => {
  test("export * from", () => {
    const { exitCode, output } = lint("biome", {
      "src/net/a.ts": `export * from "./b";\n`,
      "src/net/b.ts": "export const b = 1;\n",
    });
    expect(output).toContain("noReExportAll");
    expect(exitCode).toBe(1);
    expect(lint("biome", { "src/net/b.ts": "export const b = 1;\n" }).exitCode).toBe(0);
  });
});
