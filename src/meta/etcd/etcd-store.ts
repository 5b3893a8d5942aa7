/**
 * The key-value port over etcd (v3 API, etcd 3.4 and later). Reads are linearizable; a transaction whose answer
 * was lost is reported as unknown, never repeated; a keepalive is one round trip of ours, since etcd3's own judges
 * a lease's end far too late. Ids of leases are chosen here, so that a grant can be repeated.
 */
import type { ILeaseKeepAliveResponse, IRangeResponse } from "etcd3";
import type { Clock, Random } from "../../base";
import { checkKey, checkLeaseTtl, checkTransaction } from "../check";
import { MetaError } from "../errors";
import type {
  CallOptions,
  KeyValue,
  KeyValueStore,
  LeaseId,
  RangeResult,
  Transaction,
  TransactionResult,
  Watch,
  WatchListener,
  WatchOptions,
} from "../kv";
import { cancelStream, EtcdClient, type EtcdCredentials } from "./etcd-client";
import { decodeEntry, encodeCompare, encodeOperation, encodeRead, prefixEnd } from "./etcd-codec";
import { classifyEtcdError } from "./etcd-errors";
import { EtcdWatch } from "./etcd-watch";

/** Keys read at a time, so that no answer comes near gRPC's limits. */
const RANGE_PAGE_KEYS = 2_000;
/** How often a range starts again because its revision was compacted between two pages. */
const RANGE_RESTARTS_MAX = 5;

export interface EtcdStoreOptions extends EtcdCredentials {
  readonly endpoints: readonly string[];
  readonly tls: boolean;
  readonly clock: Clock;
  readonly random: Random;
}

export class EtcdStore implements KeyValueStore {
  readonly #client: EtcdClient;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #watches = new Set<Watch>();

  constructor(options: EtcdStoreOptions) {
    this.#clock = options.clock;
    this.#random = options.random;
    this.#client = new EtcdClient(options, options.random.nextU32());
  }

  get description(): string {
    return this.#client.description;
  }

  async get(key: string, options?: CallOptions): Promise<KeyValue | undefined> {
    checkKey(key);
    const response = await this.#rangeCall({ key: Buffer.from(key) }, `read ${key}`, options);
    const entry = response.kvs[0];
    return entry === undefined ? undefined : decodeEntry(entry);
  }

  async range(prefix: string, options?: CallOptions): Promise<RangeResult> {
    checkKey(prefix);
    for (let restart = 0; ; restart++)
      try {
        return await this.#rangePages(prefix, options);
      } catch (error) {
        const compacted = error instanceof MetaError && classifyEtcdError(error.cause) === "compacted";
        if (!compacted || restart >= RANGE_RESTARTS_MAX) throw error;
      }
  }

  async transact(transaction: Transaction, options?: CallOptions): Promise<TransactionResult> {
    checkTransaction(transaction);
    const reads = (transaction.reads ?? []).map(encodeRead);
    const operations = transaction.operations.map(encodeOperation);
    return this.#client.call(
      {
        what: "run a metadata transaction",
        idempotent: operations.length === 0,
        run: async (client, deadline) => {
          const response = await client.kv.txn(
            {
              compare: transaction.compares.map(encodeCompare),
              success: [...operations, ...reads],
              failure: reads,
            },
            deadline,
          );
          this.#client.checkHeader(response.header);
          const answers = response.responses.slice(response.responses.length - reads.length);
          return {
            committed: response.succeeded,
            revision: Number(response.header.revision),
            reads: answers.map(({ response_range }) => {
              const entry = response_range.kvs[0];
              return entry === undefined ? undefined : decodeEntry(entry);
            }),
          };
        },
      },
      options,
    );
  }

  watch(prefix: string, listener: WatchListener, options: WatchOptions = {}): Watch {
    checkKey(prefix);
    this.#client.assertOpen();
    const watch = new EtcdWatch(
      this.#client,
      this.#clock,
      prefix,
      listener,
      options.afterRevision,
      (watched) => this.range(watched),
    );
    this.#watches.add(watch);
    return {
      close: () => {
        this.#watches.delete(watch);
        watch.close();
      },
    };
  }

  async grantLease(ttlMs: number, options?: CallOptions): Promise<LeaseId> {
    checkLeaseTtl(ttlMs);
    // Positive, not zero, 63 bits: repeating the grant of this id is harmless.
    const id = ((BigInt(`0x${this.#random.hex(8)}`) >> 1n) | 1n).toString();
    await this.#client.call(
      {
        what: "grant a lease",
        idempotent: true,
        run: async (client, deadline) => {
          try {
            await client.leaseClient.leaseGrant({ TTL: String(Math.ceil(ttlMs / 1000)), ID: id }, deadline);
          } catch (error) {
            if (classifyEtcdError(error) !== "lease-exists") throw error;
          }
        },
      },
      options,
    );
    return id;
  }

  async keepLeaseAlive(lease: LeaseId, options?: CallOptions): Promise<void> {
    const response = await this.#client.call<ILeaseKeepAliveResponse>(
      {
        what: `keep lease ${lease} alive`,
        idempotent: true,
        run: async (client, deadline) => {
          const stream = await client.leaseClient.leaseKeepAlive(deadline);
          return new Promise((resolve, reject) => {
            stream.on("data", (message: ILeaseKeepAliveResponse) => {
              resolve(message);
              cancelStream(stream);
            });
            // The cancel above ends in an error too, after the promise is settled.
            stream.on("error", reject);
            stream.on("end", () => reject(new Error("the keepalive stream ended without an answer")));
            stream.write({ ID: lease });
          });
        },
      },
      options,
    );
    if (Number(response.TTL) <= 0)
      throw new MetaError("lease-lost", `Cannot keep lease ${lease} alive: it has ended`);
  }

  async leaseRemainingMs(lease: LeaseId, options?: CallOptions): Promise<number> {
    const response = await this.#client.call(
      {
        what: `read lease ${lease}`,
        idempotent: true,
        run: (client, deadline) => client.leaseClient.leaseTimeToLive({ ID: lease }, deadline),
      },
      options,
    );
    return Math.max(0, Number(response.TTL)) * 1000;
  }

  async revokeLease(lease: LeaseId, options?: CallOptions): Promise<void> {
    await this.#client.call(
      {
        what: `end lease ${lease}`,
        idempotent: true,
        run: async (client, deadline) => {
          try {
            await client.leaseClient.leaseRevoke({ ID: lease }, deadline);
          } catch (error) {
            if (classifyEtcdError(error) !== "lease-lost") throw error;
          }
        },
      },
      options,
    );
  }

  async close(): Promise<void> {
    for (const watch of this.#watches) watch.close();
    this.#watches.clear();
    this.#client.close();
  }

  #rangeCall(
    request: { key: Buffer; range_end?: Buffer; limit?: number; revision?: string },
    what: string,
    options?: CallOptions,
  ): Promise<IRangeResponse> {
    return this.#client.call(
      {
        what,
        idempotent: true,
        run: async (client, deadline) => {
          const response = await client.kv.range(request, deadline);
          this.#client.checkHeader(response.header);
          return response;
        },
      },
      options,
    );
  }

  async #rangePages(prefix: string, options?: CallOptions): Promise<RangeResult> {
    const end = prefixEnd(prefix);
    const entries: KeyValue[] = [];
    let from = Buffer.from(prefix);
    let revision: string | undefined;
    for (;;) {
      const page = await this.#rangeCall(
        {
          key: from,
          range_end: end,
          limit: RANGE_PAGE_KEYS,
          ...(revision !== undefined && { revision }),
        },
        `list ${prefix}`,
        options,
      );
      revision ??= page.header.revision;
      for (const entry of page.kvs) entries.push(decodeEntry(entry));
      const last = page.kvs.at(-1);
      if (!page.more || last === undefined) return { revision: Number(revision), entries };
      from = Buffer.concat([last.key, Buffer.from([0])]);
    }
  }
}
