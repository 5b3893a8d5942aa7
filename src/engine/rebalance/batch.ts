/**
 * One batch of blocks of a pass: asks the peers that should hold them, sends what is lacking, and drops what this peer
 * holds without need, by rule R8: only blocks not younger than the head, only after all R desired peers, at this very
 * ring version, confirmed a copy that they read and checked, and only while this peer is still at it.
 *
 * Who sends: the first peer of a block's permutation that holds it, so that not all holders send the same. A peer that
 * holds a block it should not have leaves the sending to those that should, while they get on with it.
 */
import { type BlockRef, formatBlockRef, type PeerId } from "../../base";
import { type BlockListing, type PeerTransport, StorageStatus } from "../ports";
import { type BlockAccess, type BlockAges, forEachLimited, type LocalPeer, type Pacer } from "../upkeep";
import type { DesiredPeers, PeerKnowledge } from "./targets";

/** Whole blocks in memory at once. */
const SENDS_MAX = 4;

export interface BatchContext {
  readonly self: PeerId;
  readonly access: BlockAccess;
  readonly local: LocalPeer;
  readonly transport: PeerTransport;
  readonly pacer: Pacer;
  readonly desired: DesiredPeers;
  readonly knowledge: PeerKnowledge;
  readonly ages: BlockAges;
  readonly signal: AbortSignal;
  /** Others make no headway: send what is lacking, whoever's turn it is. */
  readonly sendAll: boolean;
  /** Known to be dead and collected soon: another copy would be for nothing, and seen as new by who gets it. */
  isDead(ref: BlockRef): boolean;
  /** The ring is still the one of this pass. */
  isCurrent(): boolean;
  /** Told of every copy sent and every drop, as they happen. */
  onMoved(bytes: number): void;
  onDropped(blocks: number): void;
  /** All its peers that are up have it; those that come up later are looked at when they do. */
  onPlaced(ref: BlockRef): void;
}

export interface BatchOutcome {
  moved: number;
  movedBytes: number;
  dropped: number;
  /** Not finished: a peer is away, full, or another sends it. */
  waiting: number;
  /** Of which only other peers can bring them further. */
  waitingForOthers: number;
  /** Needless copies of a log's tail: they may go when their volume's head has passed them (R8). */
  young: number;
  /** Peers that lack something still, or could not be asked. */
  readonly openPeers: Set<PeerId>;
  readonly conflicts: string[];
}

/** What is known of one block. */
interface BlockCase {
  readonly listing: BlockListing;
  readonly peers: readonly PeerId[];
  readonly isMine: boolean;
  /** Status of each desired peer's copy, by position. */
  readonly statuses: StorageStatus[];
  waits: boolean;
}

export function newOutcome(): BatchOutcome {
  return {
    moved: 0,
    movedBytes: 0,
    dropped: 0,
    waiting: 0,
    waitingForOthers: 0,
    young: 0,
    openPeers: new Set(),
    conflicts: [],
  };
}

export async function processBatch(
  context: BatchContext,
  listings: readonly BlockListing[],
  outcome: BatchOutcome,
): Promise<void> {
  const cases = listings.map((listing) => makeCase(context, listing));
  await askHolders(context, cases);
  await forEachLimited(cases, SENDS_MAX, (block) => sendLacking(context, block, outcome));
  for (const block of cases) if (isPlaced(context, block)) context.onPlaced(block.listing.ref);
  await dropSurplus(context, cases, outcome);
  for (const block of cases) if (block.waits) outcome.waiting++;
}

function makeCase(context: BatchContext, listing: BlockListing): BlockCase {
  const peers = context.desired.of(listing.ref, []);
  return {
    listing,
    peers,
    isMine: peers.includes(context.self),
    statuses: peers.map(() => StorageStatus.unreachable),
    waits: false,
  };
}

async function askHolders(context: BatchContext, cases: readonly BlockCase[]): Promise<void> {
  const questions = new Map<PeerId, { readonly block: BlockCase; readonly position: number }[]>();
  for (const block of cases)
    for (const [position, peer] of block.peers.entries())
      if (peer === context.self)
        block.statuses[position] = block.listing.suspect ? StorageStatus.corrupt : StorageStatus.ok;
      else if (context.knowledge.isLive(peer)) {
        const asked = questions.get(peer);
        if (asked === undefined) questions.set(peer, [{ block, position }]);
        else asked.push({ block, position });
      }
  const askPeer = async (peer: PeerId) => {
    const asked = questions.get(peer) ?? [];
    const statuses = await context.access.askMany(
      peer,
      asked.map(({ block }) => block.listing.ref),
    );
    for (const [at, { block, position }] of asked.entries())
      block.statuses[position] = statuses[at] as StorageStatus;
  };
  context.signal.throwIfAborted();
  await Promise.all([...questions.keys()].map(askPeer));
}

function isPlaced({ knowledge, self }: BatchContext, { peers, statuses }: BlockCase): boolean {
  return peers.every(
    (peer, position) => statuses[position] === StorageStatus.ok || (peer !== self && !knowledge.isLive(peer)),
  );
}

const isLacking = (status: StorageStatus) =>
  status === StorageStatus.notFound || status === StorageStatus.corrupt;

async function sendLacking(context: BatchContext, block: BlockCase, outcome: BatchOutcome): Promise<void> {
  const { statuses, peers } = block;
  statuses.forEach((status, position) => {
    if (status === StorageStatus.ok || isLacking(status)) return;
    block.waits = true;
    outcome.openPeers.add(peers[position] as PeerId);
  });
  const lacking = peers.filter(
    (peer, position) => peer !== context.self && isLacking(statuses[position] as StorageStatus),
  );
  if (lacking.length === 0 || block.listing.suspect) return;
  if (context.isDead(block.listing.ref)) {
    // One that this peer need not hold goes by being collected.
    block.waits ||= !block.isMine;
    return;
  }
  if (!context.sendAll && !(await isMyTurn(context, block))) {
    block.waits = true;
    outcome.waitingForOthers++;
    for (const peer of lacking) outcome.openPeers.add(peer);
    return;
  }
  for (const peer of lacking) await sendTo(context, block, peer, outcome);
}

/** Whether no peer before this one in the block's walk holds it. */
async function isMyTurn(context: BatchContext, block: BlockCase): Promise<boolean> {
  const { self, knowledge, access } = context;
  const mine = block.isMine ? block.peers.indexOf(self) : block.peers.length;
  if (block.statuses.some((status, position) => status === StorageStatus.ok && position < mine)) return false;
  if (block.isMine) return true;
  // Nobody who should has it: of those who should not, the first in the walk sends.
  for (const peer of context.desired.walk(block.listing.ref).slice(block.peers.length)) {
    if (peer === self) return true;
    if (knowledge.isLive(peer) && (await access.ask(peer, block.listing.ref)) === StorageStatus.ok)
      return false;
  }
  return true;
}

async function sendTo(
  context: BatchContext,
  block: BlockCase,
  peer: PeerId,
  outcome: BatchOutcome,
): Promise<void> {
  const { access, self, pacer, signal } = context;
  const { ref, lengthBytes } = block.listing;
  await pacer.take(lengthBytes, signal);
  // Whose turn it is may be sending by now, however late.
  if (context.sendAll && (await access.ask(peer, ref)) === StorageStatus.ok) {
    block.statuses[block.peers.indexOf(peer)] = StorageStatus.ok;
    return;
  }
  const status = await access.withBlock(ref, self, (whole) => access.send(peer, whole));
  if (status === StorageStatus.ok) {
    outcome.moved++;
    outcome.movedBytes += lengthBytes;
    context.onMoved(lengthBytes);
    block.statuses[block.peers.indexOf(peer)] = StorageStatus.ok;
    return;
  }
  // Collected meanwhile: nothing is left to be done for it.
  if (status === StorageStatus.notFound) return;
  block.waits = true;
  outcome.openPeers.add(peer);
  if (status === StorageStatus.conflict)
    outcome.conflicts.push(`${formatBlockRef(ref)} has another content on peer ${peer}`);
}

async function dropSurplus(
  context: BatchContext,
  cases: readonly BlockCase[],
  outcome: BatchOutcome,
): Promise<void> {
  const placed = cases.filter(
    (block) =>
      !block.isMine &&
      !context.desired.isShort &&
      block.statuses.every((status) => status === StorageStatus.ok),
  );
  const surplus = placed.filter((block) => !context.ages.isYoung(block.listing.ref));
  outcome.young += placed.length - surplus.length;
  const confirmed = await confirmedByAll(context, surplus, outcome);
  if (confirmed.length === 0 || !context.isCurrent()) return;
  await context.local.deleteBlocks(confirmed);
  outcome.dropped += confirmed.length;
  context.onDropped(confirmed.length);
}

/** Refs of which every desired peer, at this ring version, read and checked its copy just now. */
async function confirmedByAll(
  context: BatchContext,
  surplus: readonly BlockCase[],
  outcome: BatchOutcome,
): Promise<BlockRef[]> {
  const askedOf = new Map<PeerId, BlockCase[]>();
  for (const block of surplus)
    for (const peer of block.peers) askedOf.set(peer, [...(askedOf.get(peer) ?? []), block]);
  const confirmations = new Map<BlockCase, number>(surplus.map((block) => [block, 0]));
  for (const [peer, blocks] of askedOf) {
    const bytes = blocks.reduce((sum, block) => sum + block.listing.lengthBytes, 0);
    await context.pacer.take(bytes, context.signal);
    for (const block of await confirmedBy(context, peer, blocks))
      confirmations.set(block, (confirmations.get(block) ?? 0) + 1);
  }
  const refs: BlockRef[] = [];
  for (const [block, count] of confirmations) {
    if (count === block.peers.length) refs.push(block.listing.ref);
    else {
      block.waits = true;
      for (const peer of block.peers) outcome.openPeers.add(peer);
    }
  }
  return refs;
}

async function confirmedBy(
  context: BatchContext,
  peer: PeerId,
  blocks: readonly BlockCase[],
): Promise<BlockCase[]> {
  const ringVersion = context.desired.ring.spec.version;
  try {
    const reply = await context.transport.confirm(peer, {
      refs: blocks.map((block) => block.listing.ref),
      ringVersion,
    });
    if (reply.peerId !== peer || reply.ringVersion !== ringVersion) return [];
    return blocks.filter((_, index) => reply.statuses[index] === StorageStatus.ok);
  } catch {
    // A peer that does not answer confirms nothing; its blocks wait and are tried again.
    return [];
  }
}
