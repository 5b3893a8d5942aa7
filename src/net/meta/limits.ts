/** The named limits of metadata over the network. */

/** A transaction of 1 MiB with its framing. */
export const REQUEST_BYTES_MAX = 2 * 1024 * 1024;
/** One part of a listing or snapshot, or one revision's events (a whole prefix deleted is the largest). */
export const RESPONSE_BYTES_MAX = 16 * 1024 * 1024;
export const PART_BYTES = 1024 * 1024;
/** Watches on one stream, and streams on one server. */
export const TARGETS_MAX = 10_000;
export const STREAMS_MAX = 2_048;
/** What may wait for a client that reads slowly, in bytes, before its stream is ended; it then resumes. */
export const QUEUE_BYTES_MAX = 64 * 1024 * 1024;
/** Bun.serve ends responses that are silent for 10 s. */
export const ALIVE_INTERVAL_MS = 3_000;
/** A stream that was silent for so long is taken for dead. */
export const SILENCE_MS_MAX = 10_000;
/** Longest deadline a client may ask for. */
export const CALL_DEADLINE_MS_MAX = 60_000;
