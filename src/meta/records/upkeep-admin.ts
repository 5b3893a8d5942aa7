/**
 * What administrators want of the peers' background work: one small record that every daemon follows, so that a
 * command reaches all of them from any machine, those that are down when they come back. A count that grows is a
 * request to begin now.
 */
import { MetaError } from "../errors";
import type { KeyValue } from "../kv";
import { again, type MetaContext, readAll, repeat, unchanged } from "./context";
import { decodeRecord, encodeRecord, type Fields } from "./fields";
import { keys } from "./layout";

export interface JobOrders {
  readonly paused: boolean;
  /** Null: as each daemon was started. */
  readonly bytesPerSecond: number | null;
  readonly requests: number;
}

export interface UpkeepOrders {
  readonly rebalance: JobOrders;
  readonly scrub: JobOrders;
  readonly gc: { readonly requests: number };
}

const NO_ORDERS: JobOrders = { paused: false, bytesPerSecond: null, requests: 0 };
const NO_UPKEEP_ORDERS: UpkeepOrders = { rebalance: NO_ORDERS, scrub: NO_ORDERS, gc: { requests: 0 } };

export class UpkeepAdmin {
  readonly #context: MetaContext;

  constructor(context: MetaContext) {
    this.#context = context;
  }

  async get(): Promise<UpkeepOrders> {
    return decodeOrders(await this.#context.store.get(keys.upkeep));
  }

  /** Changes the orders on top of whatever others changed meanwhile. */
  async change(change: (orders: UpkeepOrders) => UpkeepOrders): Promise<UpkeepOrders> {
    const { store, random } = this.#context;
    const token = random.hex(8);
    return repeat(this.#context, { what: "change what background work does" }, async () => {
      const [entry] = await readAll(store, [keys.upkeep]);
      const present = decodeOrders(entry);
      // The answer to the first try was lost, and it did take effect: once is enough.
      if (entry !== undefined && decodeRecord(entry).string("token", 64) === token) return present;
      const next = change(present);
      const result = await store.transact({
        compares: [unchanged(keys.upkeep, entry)],
        operations: [{ kind: "put", key: keys.upkeep, value: encodeRecord({ ...next, token }) }],
      });
      return result.committed ? next : again;
    });
  }

  /** Calls back with the orders in force, now and after every change; a damaged record is told and ignored. */
  follow(listener: (orders: UpkeepOrders) => void, onDamage: (error: MetaError) => void): () => void {
    const take = (entry: KeyValue | undefined) => {
      try {
        listener(decodeOrders(entry));
      } catch (error) {
        if (!(error instanceof MetaError)) throw error;
        onDamage(error);
      }
    };
    const watch = this.#context.store.watch(keys.upkeep, {
      onSnapshot: (entries) => take(entries.find((entry) => entry.key === keys.upkeep)),
      onEvents: (events) => {
        for (const event of events)
          if (event.kind === "put" && event.entry.key === keys.upkeep) take(event.entry);
          else if (event.kind === "delete" && event.key === keys.upkeep) take(undefined);
      },
      onConnection: () => undefined,
    });
    return () => watch.close();
  }
}

function decodeOrders(entry: KeyValue | undefined): UpkeepOrders {
  if (entry === undefined) return NO_UPKEEP_ORDERS;
  const fields = decodeRecord(entry);
  return {
    rebalance: decodeJob(fields.object("rebalance")),
    scrub: decodeJob(fields.object("scrub")),
    gc: { requests: fields.object("gc").integer("requests", 0) },
  };
}

function decodeJob(fields: Fields): JobOrders {
  const paused = fields.raw("paused");
  if (typeof paused !== "boolean") throw fields.fail("paused is neither true nor false");
  return {
    paused,
    bytesPerSecond: fields.raw("bytesPerSecond") === null ? null : fields.number("bytesPerSecond", 1),
    requests: fields.integer("requests", 0),
  };
}
