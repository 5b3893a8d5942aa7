/**
 * Deliberate bugs: one edit or two of the production source, at least one for each rule of the design. A simulator
 * that does not catch them would not catch a real one either. The text to find must occur exactly once, so that a
 * mutant that no longer fits its source fails loudly instead of testing nothing.
 */
export interface Edit {
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export interface Mutant extends Edit {
  readonly name: string;
  /** The rule of the design that it breaks. */
  readonly rule: string;
  /** Where two places hold a rule, so that one alone would not show. */
  readonly also?: Edit;
  /** The directed schedule that leads to where the rule is needed; none: chance does often enough. */
  readonly plan?: string;
}

const STORE = "src/engine/store/segment-store.ts";
const DISTRIBUTOR = "src/engine/distributor/distributor.ts";
const PLACEMENT = "src/engine/distributor/placement.ts";
const CHECKPOINTER = "src/engine/volume/checkpointer.ts";
const MEMBERSHIP = "src/engine/volume/membership.ts";
const OPEN = "src/engine/volume/open.ts";
const RECOVERY = "src/engine/volume/recovery.ts";
const SESSION = "src/meta/session/volume-session.ts";
const READ_PATH = "src/engine/volume/read-path.ts";

export const MUTANTS: readonly Mutant[] = [
  {
    name: "acknowledge before the sync",
    rule: "R1",
    file: STORE,
    find: "    this.#open.puts.push(request);\n    this.#open.rows.push(slot);",
    replace: "    request.done(StorageStatus.ok);\n    this.#open.rows.push(slot);",
  },
  {
    name: "count one copy less than the width",
    rule: "R1",
    plan: "one copy of two",
    file: DISTRIBUTOR,
    find: "    if (this.#copiesIn(block, current, withOutstanding) < current.log.width) return false;",
    replace:
      "    if (this.#copiesIn(block, current, withOutstanding) < Math.max(1, current.log.width - 1)) return false;",
  },
  {
    name: "count an acknowledgement from outside the log set",
    rule: "R1",
    plan: "a peer outside of the set",
    file: PLACEMENT,
    find: '    return incarnation !== "" && this.#incarnations.get(peer) === incarnation;',
    replace: '    return incarnation !== "";',
    also: {
      file: PLACEMENT,
      find: "      if (this.#incarnations.has(peer)) out.push(peer);\n    }\n    if (!all) return;",
      replace: "      out.push(peer);\n    }\n    if (!all) return;",
    },
  },
  {
    name: "acknowledge a block before the one before it",
    rule: "R1",
    file: "src/engine/volume/log-writer.ts",
    find: "    if (index <= this.#distributor.acknowledgedIndex) return done(true);\n    if (this.#stopped)",
    replace:
      "    if (index <= this.#distributor.acknowledgedIndex + 1) return done(true);\n    if (this.#stopped)",
  },
  {
    name: 'answer "have it" before the fence test',
    rule: "R1",
    file: STORE,
    find: "    if (this.#isFenced(request)) return request.done(StorageStatus.fenced);\n    if (this.#waitingPuts.length > 0",
    replace:
      "    const held = this.#index.find(this.#ref);\n    if (held !== NO_SLOT) return request.done(StorageStatus.ok);\n    if (this.#isFenced(request)) return request.done(StorageStatus.fenced);\n    if (this.#waitingPuts.length > 0",
  },
  {
    name: "no fence test at all",
    rule: "R1",
    plan: "a writer left behind",
    file: STORE,
    find: "    return fence !== undefined && request.writerEpoch < fence;",
    replace: "    return fence !== undefined && request.writerEpoch < 0;",
  },
  {
    name: "do not persist the fence",
    rule: "R5",
    plan: "a writer left behind, and fences on disk only",
    file: STORE,
    find: "      this.#state.raiseFence(volumeId, this.#fences.get(volumeId) as number, raised);",
    replace: "      void raised;\n      done(status);",
  },
  {
    name: "change set or width without joint acknowledgements",
    rule: "R2",
    plan: "a set changes while a block is on its way",
    file: DISTRIBUTOR,
    find: "    return next === undefined || this.#copiesIn(block, next, withOutstanding) >= next.log.width;",
    replace: "    return true;",
  },
  {
    name: "lower the width with members that do not answer",
    rule: "R2",
    plan: "fewer copies, and a disk that was lost",
    file: MEMBERSHIP,
    find: "  if (width >= view.current.width) return",
    replace: "  if (width > 0) return",
  },
  {
    name: "lower the width by what members answered before",
    rule: "R2",
    plan: "fewer copies, and a disk that was lost",
    file: "src/engine/volume/volume.ts",
    find: "    await health.ask(desired.members.map(({ peerId }) => peerId));",
    replace: "    void health;",
  },
  {
    name: "checkpoint over a block that is not acknowledged",
    rule: "R2",
    file: CHECKPOINTER,
    find: "        resolve({ map: map.freeze(sizeBytes), dataIndex: log.appliedIndex });",
    replace: "        resolve({ map: map.freeze(sizeBytes), dataIndex: log.newestIndex });",
  },
  {
    name: "commit the head before the INode blocks are durable",
    rule: "R2",
    file: CHECKPOINTER,
    find: "    await inodes.whenDurable();",
    replace: "    void inodes.whenDurable().catch(() => undefined);",
  },
  {
    name: "unconditional checkpoint",
    rule: "R2",
    plan: "a checkpoint that arrives late",
    file: SESSION,
    find: "        { key: headKey, modRevision: commit.expectedRevision },\n        { key: epochKey, modRevision: this.#taken.epochRevision },\n        { key: lockKey, modRevision: lockRevision },",
    replace: "",
  },
  {
    name: "read the head before the mint",
    rule: "R3a",
    plan: "a mint that arrives late",
    file: "src/meta/session/open-volume.ts",
    find: "      head: decodeHead(head).head,",
    replace: "      head: look.head,",
  },
  {
    name: "open with too few fenced peers",
    rule: "R3b",
    file: RECOVERY,
    find: "  const needed = members.length === 0 ? 0 : members.length - width + 1;",
    replace: "  const needed = members.length === 0 ? 0 : 1;",
  },
  {
    name: "grant a fence whose epoch has blocks already",
    rule: "R3c",
    plan: "metadata from a backup, and an epoch minted twice",
    file: "src/engine/peer/peer-service.ts",
    find: "    if (known > epoch || heldMax === epoch)",
    replace: "    if (known > epoch)",
    also: {
      file: "src/engine/peer/peer-service.ts",
      find: "  if (heldData > headEpoch) return heldData;\n",
      replace: "",
    },
  },
  {
    name: "grant a fence where there are data newer than the head",
    rule: "R3c",
    plan: "metadata from a backup, and an epoch minted twice",
    file: "src/engine/peer/peer-service.ts",
    find: "  if (heldData > headEpoch) return heldData;\n",
    replace: "",
  },
  {
    name: "grant a fence after a writer that the metadata do not know",
    rule: "R3c",
    plan: "metadata from a backup, with clocks that go on",
    file: "src/engine/peer/peer-service.ts",
    find: "): number | undefined {\n  if (minted === undefined) return undefined;",
    replace: "): number | undefined {\n  if (minted === undefined || headEpoch > 0) return undefined;",
  },
  {
    name: "grant a fence to a head that reached further once",
    rule: "R3c",
    plan: "metadata from a backup of the middle of a session",
    file: "src/engine/peer/peer-service.ts",
    find: "return coveredIndex > tailAfterIndex ? tailEpoch : undefined;",
    replace: "return coveredIndex < 0 ? tailEpoch : undefined;",
  },
  {
    name: "replay past a gap",
    rule: "R3d",
    plan: "a gap in the log",
    file: RECOVERY,
    find: "    if (counted.length - unsure.length >= needed) break;",
    replace:
      "    if (fenced.some((reply) => reply.tail.some((one) => one.index > index && !one.suspect))) continue;\n    if (counted.length - unsure.length >= needed) break;",
  },
  {
    name: "take a suspect copy for a denial",
    rule: "R3d",
    plan: "a rotten copy",
    file: RECOVERY,
    find: "    const unsure = counted.filter((reply) => reply.tail.some((one) => one.index === index));",
    replace: "    const unsure = counted.filter(() => false);",
  },
  {
    name: "adopt only what a member of the log set's width has",
    rule: "R3d",
    file: RECOVERY,
    find: "  return holders.length === 0 ? undefined : { index, headerCrc, lengthBytes, holders };",
    replace: "  return holders.length < 2 ? undefined : { index, headerCrc, lengthBytes, holders };",
  },
  {
    name: "do not copy the adopted tail",
    rule: "R3e",
    plan: "a tail on one peer",
    file: OPEN,
    find: "    const short = blocks.filter((block) => block.holders.filter(inSet).length < logSet.width);",
    replace: "    const short = blocks.filter(() => false);",
  },
  {
    name: "take requests before the first checkpoint",
    rule: "R3g",
    file: OPEN,
    find: "    await this.#step(core.checkpointer.run({ sizeBytes }));",
    replace: "    void core.checkpointer.run({ sizeBytes }).catch(() => undefined);",
  },
  {
    name: "count any fenced peer, not the log set's",
    rule: "R4",
    file: RECOVERY,
    find: "    members.some((one) => one.peerId === reply.peerId && one.incarnation === reply.incarnation),\n  );\n  const needed",
    replace: "    members.length > 0 || reply.peerId === undefined,\n  );\n  const needed",
  },
  {
    name: "an empty peer under its old identity",
    rule: "R5",
    plan: "an empty peer",
    file: RECOVERY,
    find: "    members.some((one) => one.peerId === reply.peerId && one.incarnation === reply.incarnation),\n  );\n  const needed",
    replace: "    members.some((one) => one.peerId === reply.peerId),\n  );\n  const needed",
  },
  {
    name: "a rolled-back disk keeps its incarnation",
    rule: "R5",
    plan: "an older disk",
    file: "src/meta/records/peer-directory.ts",
    find: "    if (known.length > 0 && bootCount <= reached && !(isSameProcess && bootCount === reached))",
    replace: "    if (known.length > 0 && bootCount < 0 && !(isSameProcess && bootCount === reached))",
  },
  {
    name: "only starts are counted, not what came after",
    rule: "R5",
    plan: "an older disk of the same start",
    file: "src/meta/records/peer-directory.ts",
    find: "    if (progress < recorded)",
    replace: "    if (progress < 0)",
  },
  {
    name: "detach without waiting for acknowledgements",
    rule: "R6",
    file: "src/engine/volume/volume.ts",
    find: "    await this.#drain();\n    await this.#core.checkpointer.run({ detach: true });",
    replace: "    await this.#core.checkpointer.run({ detach: true });",
  },
  {
    name: "reads past the lease",
    rule: "R13",
    file: READ_PATH,
    find: "      if (nowMs >= lease.deadlineMs()) return this.#awaitLease(request, nowMs);",
    replace: "",
  },
  {
    name: "zeroes for a block nobody has",
    rule: "reads",
    file: "src/engine/volume/block-reader.ts",
    find: "      let status: StorageStatus = StorageStatus.notFound;",
    replace:
      "      let status: StorageStatus = StorageStatus.notFound;\n      if (read.badPeer === undefined && read.slotCount > 0 && read.ref.kind === 1) {\n        read.destination.bytes.fill(0, read.destinationOffset, read.destinationOffset + read.slotCount * 4096);\n        return this.#finish(read, StorageStatus.ok);\n      }",
  },
  {
    name: "trust bytes that fail their CRC",
    rule: "reads",
    file: "src/engine/volume/block-reader.ts",
    find: "    return readCheck(this.#seedOf(ref), read.firstSlot, buffer.bytes, offset, lengthBytes) === check;",
    replace: "    return lengthBytes > 0 || check === 0;",
  },
  {
    name: "serve a second answer while the first may still be written",
    rule: "reads",
    plan: "a peer that answers after another has",
    file: "src/engine/volume/block-reader.ts",
    find: "    if (read.asked !== undefined && !this.#ports.transport.withdrawRead(read.asked, read)) return false;\n",
    replace: "",
  },
  {
    name: "serve a second answer that fails its CRC",
    rule: "reads",
    plan: "a peer that answers after another has",
    file: "src/engine/volume/block-reader.ts",
    find: "    if (status === StorageStatus.ok && this.#isGood(read, destination, 0, lengthBytes, check)) {",
    replace: "    if (status === StorageStatus.ok && destination.bytes.length > 0 && check >= 0) {",
  },
  {
    name: "snapshot without waiting for acknowledgements",
    rule: "R9",
    file: "src/engine/volume/volume.ts",
    find: "    await this.#drain();\n    const outcome = await this.checkpoint({ snapshotRequestId: requestId });",
    replace: "    const outcome = await this.checkpoint({ snapshotRequestId: requestId });",
  },
  {
    name: "snapshot the head instead of the new checkpoint",
    rule: "R9",
    file: SESSION,
    find: "      ...{ root: head.root, sizeBytes: head.sizeBytes },\n      createdMs: this.#context.clock.wallMs(),\n      ...(copy",
    replace:
      "      ...{ root: this.grant.head.root ?? head.root, sizeBytes: head.sizeBytes },\n      createdMs: this.#context.clock.wallMs(),\n      ...(copy",
  },
  {
    name: "restore by setting the head back",
    rule: "R10",
    file: OPEN,
    find: "restore ? { blocks: [], givenUp: wanted.givenUp } : wanted;",
    replace: "wanted;",
  },
  {
    name: "shrink without trimming",
    rule: "R10",
    file: "src/engine/volume/volume.ts",
    find: "        this.#writes.write(sizeBytes, before - sizeBytes, undefined, 0, true, resolve),",
    replace: "        before === 0 ? this.#writes.flush(resolve) : resolve(VolumeStatus.ok),",
  },
  {
    name: "clean out of order",
    rule: "R11",
    file: "src/engine/volume/cleaner.ts",
    find: "    return this.#log.overlay.locate(page) === NOT_IN_OVERLAY && this.#core.map.locationOf(page) === location;",
    replace: "    return page >= 0 && location > 0 && NOT_IN_OVERLAY < 1;",
  },
  {
    name: "clean over what is newer and not in the map yet",
    rule: "R11",
    file: "src/engine/volume/cleaner.ts",
    find: "    return this.#log.overlay.locate(page) === NOT_IN_OVERLAY && this.#core.map.locationOf(page) === location;",
    replace: "    return NOT_IN_OVERLAY < 1 && this.#core.map.locationOf(page) === location;",
  },
  {
    name: "mint epochs by the wall clock alone",
    rule: "R12",
    file: "src/meta/records/epochs.ts",
    find: "Math.max(previous.epoch + 1, wallMs <= WALL_MS_MAX ? wallMs : 0)",
    replace: "Math.max(1, wallMs <= WALL_MS_MAX ? wallMs : previous.epoch + 1)",
  },
  {
    name: "use one index for data and INode blocks",
    rule: "R7",
    file: "src/engine/upkeep/age.ts",
    find: "    return (kind === BlockKind.data ? head.dataIndex : head.inodeIndex) + 1;",
    replace:
      "    return (kind === BlockKind.data ? Math.max(head.dataIndex, head.inodeIndex) : head.inodeIndex) + 1;",
  },
  {
    name: "collect what a snapshot needs",
    rule: "R7",
    file: "src/engine/gc/lineage.ts",
    find: "      ...snapshots.map((set) => set.blocks),",
    replace: "      ...snapshots.slice(snapshots.length).map((set) => set.blocks),",
  },
  {
    name: "collect what a clone needs",
    rule: "R7",
    file: "src/engine/gc/lineage.ts",
    find: "    for (const volume of volumes) await this.updateVolume(volume, reader);",
    replace: "    for (const volume of volumes.slice(0, 1)) await this.updateVolume(volume, reader);",
  },
  {
    name: "collect the lineage whose map cannot be read",
    rule: "R7",
    file: "src/engine/gc/collector.ts",
    find: "    if (lineage === undefined) return;\n    await this.deleteDead(keys, held, lineage.sets(), new BlockAges(view), true, signal);",
    replace:
      "    await this.deleteDead(keys, held, lineage?.sets() ?? [], new BlockAges(view), true, signal);",
  },
  {
    name: "collect young blocks",
    rule: "R7",
    plan: "an open that takes its time",
    file: "src/engine/upkeep/age.ts",
    find: "    if (epoch > head.epoch) return 1;",
    replace: "    if (epoch > head.epoch) return Number.POSITIVE_INFINITY;",
  },
  {
    name: "drop a tail block",
    rule: "R8",
    plan: "a tail that the ring wants elsewhere",
    file: "src/engine/rebalance/batch.ts",
    find: "  const surplus = placed.filter((block) => !context.ages.isYoung(block.listing.ref));",
    replace: "  const surplus = placed;",
  },
  {
    name: "drop without asking the others",
    rule: "R8",
    plan: "a new place without room",
    file: "src/engine/rebalance/batch.ts",
    find: "      block.statuses.every((status) => status === StorageStatus.ok),\n  );",
    replace: "      block.statuses.length > 0,\n  );",
    also: {
      file: "src/engine/rebalance/batch.ts",
      find: "    if (count === block.peers.length) refs.push(block.listing.ref);",
      replace: "    if (count >= 0) refs.push(block.listing.ref);",
    },
  },
  {
    name: "drop on the word of one peer that it has a copy",
    rule: "R8",
    plan: "a copy that went astray",
    file: "src/engine/rebalance/batch.ts",
    find: "    if (count === block.peers.length) refs.push(block.listing.ref);",
    replace: "    if (count >= 0) refs.push(block.listing.ref);",
  },
  {
    name: "a put that waited is not tested against the fence again",
    rule: "R1",
    plan: "a put that waits for room, and a fence",
    file: STORE,
    find: "      if (this.#isFenced(request)) request.done(StorageStatus.fenced);\n      else if (!this.#tryPut(request)) {",
    replace: "      if (!this.#tryPut(request)) {",
  },
  {
    name: "go on after a failed sync",
    rule: "store",
    plan: "a disk that fails to sync",
    file: STORE,
    find: "    if (status !== DiskStatus.ok)\n      return this.#poison(`Cannot sync the store in",
    replace:
      "    if (status !== DiskStatus.ok && this.#syncsLeft < 0)\n      return this.#poison(`Cannot sync the store in",
  },
  {
    name: "a lock retaken after another opened",
    rule: "R13",
    plan: "a writer that comes back",
    file: SESSION,
    find: '    if (epoch.modRevision !== this.#taken.epochRevision)\n      return { kind: "lost", reason: "the volume was opened or unlocked elsewhere" };\n    if (lock === undefined)',
    replace: "    if (lock === undefined)",
    also: {
      file: SESSION,
      find: "        { key: epochKey, modRevision: this.#taken.epochRevision },\n        { key: lockKey, modRevision: lock?.modRevision ?? 0 },",
      replace: "        { key: lockKey, modRevision: lock?.modRevision ?? 0 },",
    },
  },
  {
    name: "fence without ordering against pending puts",
    rule: "R1",
    plan: "a fence behind a slow put",
    file: STORE,
    find: "    this.#open.callbacks.push((status) => {\n      if (status !== StorageStatus.ok) return done(status);\n      const raised = this.#stateDone((raisedStatus) => {\n        this.#isAhead ||= raisedStatus === StorageStatus.ok;\n        done(raisedStatus);\n      });\n      this.#state.raiseFence(volumeId, this.#fences.get(volumeId) as number, raised);\n    });\n    this.#queueCommit();",
    replace:
      "    this.#state.raiseFence(volumeId, this.#fences.get(volumeId) as number, this.#stateDone(done));",
    also: {
      file: STORE,
      find: "      const flags = this.#index.flagsOf(slot);\n      tail.push({",
      replace:
        "      const flags = this.#index.flagsOf(slot);\n      if ((flags & RowFlag.durable) === 0) return;\n      tail.push({",
    },
  },
  {
    name: "count a copy that is not durable yet when the tail is adopted",
    rule: "R3e",
    plan: "a copy that is not durable yet",
    file: STORE,
    find: "(flags & (RowFlag.suspect | RowFlag.durable)) !== RowFlag.durable,",
    replace: "(flags & RowFlag.suspect) !== 0,",
  },
  {
    name: "drop under another ring version",
    rule: "R8",
    plan: "two rings, two copies",
    file: "src/engine/peer/peer-service.ts",
    find: "    if (request.ringVersion === this.#store.ringVersion)",
    replace: "    if (request.ringVersion >= 0)",
    also: {
      file: "src/engine/rebalance/batch.ts",
      find: "    if (reply.peerId !== peer || reply.ringVersion !== ringVersion) return [];",
      replace: "    if (reply.peerId !== peer) return [];",
    },
  },
];
