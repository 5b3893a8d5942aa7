/** Listings in pages. A token names the last entry that was given, so that what comes and goes meanwhile moves none. */
import { CsiError } from "./errors";

const TOKEN_PREFIX = "after:";

/** `entries` by key, ascending. Throws "aborted" for a token that this never gave, "invalid-argument" for a bad limit. */
export function pageOf<Entry>(
  entries: readonly Entry[],
  keyOf: (entry: Entry) => string,
  startingToken: string,
  entryCountMax: number,
): { readonly entries: readonly Entry[]; readonly nextToken: string } {
  if (entryCountMax < 0)
    throw new CsiError("invalid-argument", `Cannot list ${entryCountMax} entries: give 0 for all`);
  if (startingToken !== "" && !startingToken.startsWith(TOKEN_PREFIX))
    throw new CsiError("aborted", `Cannot go on from "${startingToken}": it is no token of this listing`);
  const after = startingToken.slice(TOKEN_PREFIX.length);
  const rest = startingToken === "" ? entries : entries.filter((entry) => keyOf(entry) > after);
  if (entryCountMax === 0 || rest.length <= entryCountMax) return { entries: rest, nextToken: "" };
  const page = rest.slice(0, entryCountMax);
  return { entries: page, nextToken: `${TOKEN_PREFIX}${keyOf(page.at(-1) as Entry)}` };
}
