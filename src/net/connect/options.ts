/** What a Connect client is made of, and its usual deadlines. */
import type { AllocateBuffer, Clock, ClusterId, PeerId, Random, TurnScheduler } from "../../base";
import type { StreamAddress, StreamNetwork } from "../../base/io";

export interface ConnectTransportOptions {
  readonly network: StreamNetwork;
  readonly clock: Clock;
  readonly turns: TurnScheduler;
  readonly random: Random;
  readonly allocate: AllocateBuffer;
  readonly clusterId: ClusterId;
  /** Where a peer's HTTP server listens, by number (`10.0.0.1:4321`); undefined while nobody knows. Asked at every connect. */
  readonly locate: (peer: PeerId) => StreamAddress | undefined;
  /** Deadline of a put or read, counted once while it waits for a connection and once for its call. */
  readonly requestTimeoutMs: number;
  readonly controlTimeoutMs: number;
  readonly connectTimeoutMs: number;
  /** Connections, and so calls under way, per peer. */
  readonly connectionCountMax?: number;
}

export const CONNECT_REQUEST_TIMEOUT_MS = 3_000;
export const CONNECT_CONTROL_TIMEOUT_MS = 10_000;
export const CONNECT_CONNECT_TIMEOUT_MS = 1_000;
export const CONNECT_CONNECTION_COUNT_MAX = 4;
