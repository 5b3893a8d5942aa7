/** Disks: they are slow, full, fail, forget, rot, write elsewhere, and come back empty or as they once were. */
import type { DiskMoment, SimPeer } from "../actors/peer";
import { everythingIsElsewhere } from "../check/copies";
import type { DiskImage, Struck, WriteFault } from "../simulated-disk";
import type { FaultTools, Kind } from "./stage";

/** A fault of a read or write that was asked for strikes within this time, or not at all. */
const ARMED_MS = 500;
const ARMED_POLL_MS = 10;

export function diskFaults(tools: FaultTools): Kind[] {
  const { stage, random, later, durationMs, log, strikeExpendable, canLose, settle, pause } = tools;
  const images = new Map<SimPeer, { readonly image: DiskImage; readonly moment: DiskMoment }>();
  const pickPeer = (): SimPeer => random.pick(stage.peers);

  /**
   * The disk can be spared when a fault is asked for, but by the time it strikes there may be blocks that only this
   * peer has: it is asked again then. What was under way just then gets to the other peers before anything else goes
   * wrong.
   */
  const awaitStrike = async (peer: SimPeer, ask: (hit: Struck) => void): Promise<boolean> => {
    const { world } = stage;
    let isStruck = false;
    ask((fileName, offsetBytes) => {
      isStruck = true;
      peer.noteChange(fileName, offsetBytes);
    });
    const untilMs = world.nowMs + ARMED_MS;
    while (!isStruck && world.nowMs < untilMs) await pause(ARMED_POLL_MS);
    peer.disk.clearArmed();
    if (isStruck) await settle(peer);
    return isStruck;
  };

  /** A write that reports success and is not where it should be: its block counts as lost there. */
  const astray = (name: string, fault: WriteFault): Kind => ({
    name,
    needsCalm: true,
    inject(struck) {
      strikeExpendable(
        () => true,
        (peer) =>
          awaitStrike(peer, (hit) => {
            const strike: Struck = (fileName, offsetBytes) => {
              struck();
              log(`a write of ${peer.name} is ${fault}, at ${offsetBytes} of ${fileName}`);
              hit(fileName, offsetBytes);
            };
            peer.disk.failNextWrite("data.write", fault, strike, () => canLose(peer));
          }),
      );
    },
  });

  const flipBits = (peer: SimPeer): boolean => {
    // Not the state: a peer that lost its name is not this peer any more.
    const files = peer.disk.fileNames().filter((name) => name.startsWith("blocks"));
    const flips = random.between(1, 24);
    for (let flip = 0; flip < flips && files.length > 0; flip += 1) {
      const name = random.pick(files);
      const used = peer.disk.writtenBytes(name);
      const offsetBytes = random.below(Math.max(1, used));
      const bit = random.below(8);
      // The budget could not follow it until it shows.
      if (peer.isUnwrittenMetadata(name, offsetBytes)) continue;
      peer.disk.flipBit(name, offsetBytes, bit);
      peer.noteChange(name, offsetBytes);
    }
    log(`${flips} bits of the disk of ${peer.name} flip`);
    return files.length > 0;
  };

  return [
    {
      name: "slow disk",
      inject(struck) {
        const peer = pickPeer();
        struck();
        peer.syncMs = random.pick([5, 50, 700]);
        log(`the disk of ${peer.name} takes ${peer.syncMs} ms to sync`);
        later(durationMs(), () => peer.recoverDisk());
      },
    },
    {
      name: "failed sync",
      inject(struck) {
        const operation = random.pick([
          "segment.sync",
          "segment.sync",
          "state.sync",
          "superblock.sync",
        ] as const);
        pickPeer().disk.failNextSync(operation, struck);
      },
    },
    {
      name: "failed write",
      inject(struck) {
        const operation = random.pick([
          "data.write",
          "journal.write",
          "state.write",
          "checkpoint.write",
        ] as const);
        pickPeer().disk.failNextWrite(operation, "io-error", struck);
      },
    },
    {
      name: "no space",
      inject(struck) {
        const { disk } = pickPeer();
        const times = random.between(1, 20);
        for (let time = 0; time < times; time += 1) disk.failNextWrite("data.write", "no-space", struck);
      },
    },
    {
      // The next block read there, if one is soon, counts as lost: its copy is suspect from then on.
      name: "failed read",
      needsCalm: true,
      inject(struck) {
        strikeExpendable(
          () => true,
          (peer) =>
            awaitStrike(peer, (hit) => {
              const strike: Struck = (fileName, offsetBytes) => {
                struck();
                log(`a read of ${peer.name} fails, at ${offsetBytes} of ${fileName}`);
                hit(fileName, offsetBytes);
              };
              // The peer stays who it is and loses no more than the block that was read.
              peer.disk.failNextRead("data.read", strike, () => everythingIsElsewhere(peer, stage.peers));
            }),
        );
      },
    },
    astray("lost write", "dropped"),
    astray("misdirected write", "misdirected"),
    {
      // A new disk in the old machine: the peer comes back empty, under its old id.
      name: "disk wiped",
      needsCalm: true,
      inject(struck) {
        strikeExpendable(
          () => true,
          (peer) => {
            struck();
            peer.process.log("loses its disk");
            peer.crash(true);
            peer.disk.restore(new Map());
            images.delete(peer);
            later(durationMs(), () => peer.boot());
          },
        );
      },
    },
    {
      name: "disk remembered",
      inject(struck) {
        const peer = pickPeer();
        const { store } = peer;
        if (!peer.serving || store === undefined) return;
        struck();
        const { incarnation, bootCount, progress } = store;
        images.set(peer, { image: peer.disk.image(), moment: { incarnation, bootCount, progress } });
      },
    },
    {
      // The disk comes back as it was some time ago (a snapshot of a virtual machine, an old clone), before the
      // metadata heard of it last: what is as new as that looks like a crash, and nobody can tell.
      name: "disk rolled back",
      needsCalm: true,
      inject(struck) {
        strikeExpendable(
          (peer) => {
            const remembered = images.get(peer);
            return remembered !== undefined && peer.hasGoneOnSince(remembered.moment);
          },
          (peer) => {
            const image = images.get(peer)?.image;
            if (image === undefined) return;
            struck();
            peer.process.log("comes back with an older disk");
            peer.crash(true);
            peer.disk.restore(image);
            later(durationMs(), () => peer.boot());
          },
        );
      },
    },
    {
      // Bits flip in the files of a peer, while it runs or while it is down.
      name: "rot",
      needsCalm: true,
      inject(struck) {
        strikeExpendable(
          () => true,
          async (peer) => {
            const down = random.chance(0.5);
            if (down) peer.crash(false);
            const isStruck = flipBits(peer);
            if (isStruck) struck();
            if (down) later(durationMs(), () => peer.boot());
            else await settle(peer);
            return isStruck;
          },
        );
      },
    },
  ];
}
