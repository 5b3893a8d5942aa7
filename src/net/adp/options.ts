/** What an adp client is made of, and its usual deadlines. */
import type { AllocateBuffer, Clock, ClusterId, PeerId, Random, TurnScheduler } from "../../base";
import type { StreamAddress, StreamNetwork } from "../../base/io";

export interface AdpClientOptions {
  readonly network: StreamNetwork;
  readonly clock: Clock;
  readonly turns: TurnScheduler;
  readonly random: Random;
  readonly allocate: AllocateBuffer;
  readonly clusterId: ClusterId;
  /** Header and payload of the largest block of the cluster. */
  readonly blockBytesMax: number;
  /** Where a peer listens, by number (`10.0.0.1:40000`); undefined while nobody knows. Asked at every connect. */
  readonly locate: (peer: PeerId) => StreamAddress | undefined;
  /** Deadline of a put or read; also how long a silent connection is believed in. */
  readonly requestTimeoutMs: number;
  readonly controlTimeoutMs: number;
  /** Until the peer's hello is there. */
  readonly connectTimeoutMs: number;
}

export const ADP_REQUEST_TIMEOUT_MS = 2_000;
export const ADP_CONTROL_TIMEOUT_MS = 10_000;
export const ADP_CONNECT_TIMEOUT_MS = 1_000;
