/** The memory store: for tests, for `memory:` and, on the simulator's clock, for the simulation of metadata. */
import type { Clock, Random } from "../../base";
import { EmbeddedStore } from "./embedded-store";
import { RevisionState } from "./revision-state";

export function openMemoryStore(clock: Clock, random: Random): EmbeddedStore {
  return new EmbeddedStore({ description: "memory:", clock, random, state: new RevisionState() });
}
