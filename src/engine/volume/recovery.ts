/**
 * What an opener learns from the peers (rule R3): who is fenced, which blocks of the head's tail exist, and which
 * of them it must adopt. The decision is a pure function of head and replies, so that it can be tested against
 * every case; asking and copying are in open.ts.
 */
import type { Clock, PeerId } from "../../base";
import type { Head, LogMember } from "../head";
import { type FenceReply, type FenceRequest, type PeerTransport, StorageStatus } from "../ports";
import { VolumeError } from "./errors";

/** A block of the tail that becomes part of the volume. */
export interface AdoptedBlock {
  readonly index: number;
  readonly headerCrc: number;
  readonly lengthBytes: number;
  /** Who listed a good copy, in the incarnation that answered. */
  readonly holders: readonly LogMember[];
}

export interface Adoption {
  readonly blocks: readonly AdoptedBlock[];
  /** Peers that were given up with --accept-loss; empty otherwise. */
  readonly givenUp: readonly PeerId[];
}

/**
 * Fences and lists at all targets at once. Resolves when all that `mustAnswer` names have answered or failed, at the
 * latest after the deadline; a peer that did not answer is simply not among the replies.
 */
export function fenceAndList(
  clock: Clock,
  transport: PeerTransport,
  targets: readonly PeerId[],
  mustAnswer: ReadonlySet<PeerId>,
  request: FenceRequest,
  deadlineMs: number,
): Promise<readonly FenceReply[]> {
  return new Promise((resolve) => {
    const replies: FenceReply[] = [];
    const missing = new Set(targets.filter((peer) => mustAnswer.has(peer)));
    let finished = false;
    const finish = (): void => {
      if (finished) return;
      finished = true;
      timer.cancel();
      resolve(replies);
    };
    const timer = clock.schedule(deadlineMs, finish);
    const settled = (peer: PeerId): void => {
      missing.delete(peer);
      if (missing.size === 0) finish();
    };
    for (const peer of targets)
      transport.fence(peer, request).then(
        (reply) => {
          if (!finished) replies.push(reply);
          settled(peer);
        },
        () => settled(peer),
      );
    if (missing.size === 0) finish();
  });
}

/** Whether the peer refused because of a writer before this opener, or its head, that is not in the metadata (R3c). */
export function hasSeenNewerMetadata(reply: FenceReply, epoch: number): boolean {
  return reply.status === StorageStatus.fenced && reply.epochKnown < epoch;
}

/** For people: what that peer has seen. */
export function newerMetadata({ epochKnown }: FenceReply, head: Head): string {
  return epochKnown === head.epoch
    ? `a newer head of epoch ${epochKnown}`
    : `a writer of epoch ${epochKnown}`;
}

/**
 * Which blocks to adopt, or the reason why the volume cannot be opened now. `describe` names a peer for people.
 * With `acceptLoss` members that do not answer, or hold what cannot be read, are given up instead (R4).
 */
export function planAdoption(
  volumeName: string,
  epoch: number,
  head: Head,
  replies: readonly FenceReply[],
  acceptLoss: boolean,
  describe: (peer: PeerId) => string,
): Adoption {
  const denying = replies.find((reply) => reply.status === StorageStatus.denied);
  if (denying !== undefined)
    throw new VolumeError(
      "denied",
      `Cannot open volume "${volumeName}": peer ${describe(denying.peerId)} says that its access list does not name this certificate; an administrator adds it with torus ctl volume access ${volumeName} --allow NAME`,
    );
  const witness = replies.find((reply) => hasSeenNewerMetadata(reply, epoch));
  if (witness !== undefined)
    throw new VolumeError(
      "metadata-rolled-back",
      `Cannot open volume "${volumeName}": peer ${describe(witness.peerId)} has seen ${newerMetadata(witness, head)}, which the metadata does not know of; the metadata was put back to a backup: restore its newest copy, or give up what was written since with --accept-loss`,
    );
  for (const reply of replies)
    if (reply.epochKnown > epoch || reply.status === StorageStatus.fenced)
      throw new VolumeError(
        "metadata-rolled-back",
        `Cannot open volume "${volumeName}": peer ${describe(reply.peerId)} knows epoch ${reply.epochKnown}, newer than ${epoch} just minted; the metadata was rolled back, restore its newest copy`,
      );
  const fenced = replies.filter((reply) => reply.status === StorageStatus.ok);
  const { members, width } = head.log;
  const counted = fenced.filter((reply) =>
    members.some((one) => one.peerId === reply.peerId && one.incarnation === reply.incarnation),
  );
  const needed = members.length === 0 ? 0 : members.length - width + 1;
  const silent = members.filter(
    (one) => !counted.some((reply) => reply.peerId === one.peerId && reply.incarnation === one.incarnation),
  );
  const givenUp: PeerId[] = [];
  if (counted.length < needed) {
    if (!acceptLoss)
      throw new VolumeError(
        "tail-unreachable",
        `Cannot open volume "${volumeName}": its newest blocks may be only on ${silent.map((one) => describe(one.peerId)).join(", ")}, and ${counted.length} of the ${needed} peers needed answer; start these peers, or give up what only they hold with --accept-loss`,
        { retryable: true },
      );
    givenUp.push(...silent.map((one) => one.peerId));
  }
  const blocks: AdoptedBlock[] = [];
  for (let index = head.dataIndex + 1; members.length > 0; index++) {
    const block = findBlock(volumeName, fenced, index);
    if (block) {
      blocks.push(block);
      continue;
    }
    const unsure = counted.filter((reply) => reply.tail.some((one) => one.index === index));
    if (counted.length - unsure.length >= needed) break;
    if (!acceptLoss && unsure.length > 0)
      throw new VolumeError(
        "tail-uncertain",
        `Cannot open volume "${volumeName}": block ${index} of epoch ${head.epoch} is damaged on ${unsure.map((reply) => describe(reply.peerId)).join(", ")} and no other peer has it; start ${silent.map((one) => describe(one.peerId)).join(", ") || "a peer that has it"}, or give it up with --accept-loss`,
        { retryable: true },
      );
    givenUp.push(...unsure.map((reply) => reply.peerId));
    break;
  }
  return { blocks, givenUp };
}

function findBlock(
  volumeName: string,
  fenced: readonly FenceReply[],
  index: number,
): AdoptedBlock | undefined {
  const holders: LogMember[] = [];
  let headerCrc = 0;
  let lengthBytes = 0;
  for (const reply of fenced) {
    const listed = reply.tail.find((one) => one.index === index && !one.suspect);
    if (!listed) continue;
    if (holders.length > 0 && listed.headerCrc !== headerCrc)
      throw new VolumeError(
        "conflict",
        `Cannot open volume "${volumeName}": peers hold block ${index} of its log with different contents; this must not happen, keep all peers' data and report it`,
      );
    headerCrc = listed.headerCrc;
    lengthBytes = listed.lengthBytes;
    holders.push({ peerId: reply.peerId, incarnation: reply.incarnation });
  }
  return holders.length === 0 ? undefined : { index, headerCrc, lengthBytes, holders };
}
