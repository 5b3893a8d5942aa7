/** docs/json.md as data, and what a command's JSON has otherwise than the page says. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

/** Field path (`peers[].address`) -> type as the page writes it. */
export type Fields = ReadonlyMap<string, string>;

/** By command: "ctl volume list". A heading may name several. */
export function readJsonPage(): ReadonlyMap<string, Fields> {
  const text = readFileSync(join(import.meta.dir, "../../../docs/json.md"), "utf8");
  const page = new Map<string, Fields>();
  for (const section of text.split(/^### /m).slice(1)) {
    const [heading = "", ...lines] = section.split("\n");
    const fields = new Map<string, string>();
    for (const line of lines) {
      const [, path, type] = /^\| `([^`]+)` *\| ([^|]+?) *\|/.exec(line) ?? [];
      if (path !== undefined && type !== undefined) fields.set(path, type);
    }
    for (const [, command] of heading.matchAll(/`torus ([^`]+)`/g)) page.set(command ?? "", fields);
  }
  return page;
}

const TYPES: Readonly<Record<string, (value: unknown) => boolean>> = {
  text: (value) => typeof value === "string",
  number: (value) => typeof value === "number",
  "true or false": (value) => typeof value === "boolean",
  object: (value) => typeof value === "object" && value !== null && !Array.isArray(value),
  "list of texts": (value) => Array.isArray(value) && value.every((one) => typeof one === "string"),
  null: (value) => value === null,
};

function isOfType(value: unknown, type: string): boolean {
  return type
    .replace(/ or absent$/, "")
    .split(/ or (?=null$)/)
    .some((one) => {
      const check = TYPES[one];
      if (check === undefined) throw new Error(`docs/json.md names a type "${type}" that nobody knows`);
      return check(value);
    });
}

/** One line for every field of `value` that the page does not have so, and every one of the page that is missing. */
export function differences(fields: Fields, value: unknown, path = ""): string[] {
  const type = fields.get(path);
  if (type !== undefined)
    return isOfType(value, type) ? [] : [`${path} is ${JSON.stringify(value)}, not ${type}`];
  if (Array.isArray(value)) return value.flatMap((one) => differences(fields, one, `${path}[]`));
  if (typeof value !== "object" || value === null) {
    const isNullObject = value === null && path !== "" && isInside(fields, path);
    return [`${path} is ${isNullObject ? "null" : "not on the page"}: ${JSON.stringify(value)}`];
  }
  const prefix = path === "" ? "" : `${path}.`;
  const found = Object.entries(value).flatMap(([name, one]) => differences(fields, one, `${prefix}${name}`));
  return [...found, ...missing(fields, prefix, value)];
}

function isInside(fields: Fields, path: string): boolean {
  return [...fields.keys()].some((key) => key.startsWith(`${path}.`) || key.startsWith(`${path}[`));
}

/** Fields right below an object that the page has and the object lacks. */
function missing(fields: Fields, prefix: string, value: object): string[] {
  const wanted = new Set<string>();
  for (const [key, type] of fields) {
    if (!key.startsWith(prefix) || type.endsWith("or absent")) continue;
    const name = key.slice(prefix.length).split(/[.[]/)[0] ?? "";
    if (name !== "") wanted.add(name);
  }
  return [...wanted].filter((name) => !(name in value)).map((name) => `${prefix}${name} is missing`);
}
