import type { CommandDef } from "citty";

/** A command whatever its arguments: citty's definitions are invariant in them, so no narrower type holds all. */
// biome-ignore lint/suspicious/noExplicitAny: see above
export type AnyCommand = CommandDef<any>;
