/** A peer's service as a client with access lists sees it, and how decisions are remembered. */
import { describe, expect, test } from "bun:test";
import { asEpoch, asVolumeId, heapBuffer, type VolumeId } from "../../../../src/base";
import { type Access, AccessGuard, GuardedService } from "../../../../src/engine/peer";
import {
  type PeerIdentity,
  type ServicePut,
  StorageStatus,
  type WireStorageService,
} from "../../../../src/engine/ports";
import { VirtualLoop } from "../../../support/virtual-loop";
import { dataBlock, dataRef } from "../store/blocks";

const IDENTITY = { clusterId: "c", peerId: "p", incarnation: "i" } as unknown as PeerIdentity;
const VOLUME = asVolumeId(1);

function bench() {
  const loop = new VirtualLoop();
  const calls: string[] = [];
  const denied: string[] = [];
  let questions = 0;
  let answer: Access | Error = "use";
  const guard = new AccessGuard({
    clock: loop,
    decide: async () => {
      questions++;
      if (answer instanceof Error) throw answer;
      return { access: answer, volumeName: "db" };
    },
    onDenied: (caller, volume) => denied.push(`${caller} ${volume}`),
  });
  const inner: WireStorageService = {
    identity: IDENTITY,
    put: (request) => {
      calls.push("put");
      request.done(StorageStatus.ok);
    },
    read: (request) => {
      calls.push("read");
      request.done(StorageStatus.notFound, undefined, 0, 0, 0);
    },
    fence: async () => {
      calls.push("fence");
      return { ...IDENTITY, status: StorageStatus.ok, epochKnown: 7, tail: [] };
    },
    list: async () => {
      calls.push("list");
      return { blocks: [] };
    },
    confirm: async () => {
      calls.push("confirm");
      return { ...IDENTITY, ringVersion: 1, statuses: [] };
    },
    statistics: async () => {
      throw new Error("not asked for here");
    },
  };
  const service = new GuardedService(inner, guard, "alice");
  const put = () =>
    new Promise<StorageStatus>((resolve) => {
      const block = dataBlock(dataRef(VOLUME, 1, 1), 1);
      const request: ServicePut = {
        ...{ buffer: block.buffer, offset: block.offset, lengthBytes: block.lengthBytes, writerEpoch: 1 },
        done: resolve,
      };
      service.put(request);
    });
  const read = () =>
    new Promise<StorageStatus>((resolve) =>
      service.read({ ref: dataRef(VOLUME, 1, 1), firstSlot: 0, slotCount: 1, done: resolve }),
    );
  const fence = (volumeId: VolumeId = VOLUME) =>
    service.fence({ volumeId, epoch: asEpoch(9), tailEpoch: 0, tailAfterIndex: 0 });
  return {
    ...{ loop, guard, service, calls, denied, put, read, fence },
    answers: (next: Access | Error) => {
      answer = next;
    },
    questions: () => questions,
  };
}

/** Lets time pass. */
function pass(loop: VirtualLoop, milliseconds: number): void {
  loop.schedule(milliseconds, () => undefined);
  loop.run();
}

describe("GuardedService", () => {
  test("passes on what a client may do, asking once", async () => {
    const { put, read, fence, service, calls, questions } = bench();
    expect([await put(), await read(), (await fence()).epochKnown]).toEqual([
      StorageStatus.ok,
      StorageStatus.notFound,
      7,
    ]);
    await service.list({ limit: 1, volumeId: VOLUME });
    await service.confirm({ refs: [dataRef(VOLUME, 1, 1), dataRef(VOLUME, 1, 2)], ringVersion: 1 });
    expect(calls).toEqual(["put", "read", "fence", "list", "confirm"]);
    expect(questions()).toBe(1);
  });

  test("refuses everything on another's volume, and says so once", async () => {
    const { put, read, fence, service, calls, denied, answers } = bench();
    answers("none");
    expect([await put(), await read(), (await fence()).status]).toEqual([
      StorageStatus.denied,
      StorageStatus.denied,
      StorageStatus.denied,
    ]);
    await expect(service.list({ limit: 1, volumeId: VOLUME })).rejects.toThrow(
      "Cannot list blocks of volume 1: an access list does not name this certificate",
    );
    await expect(service.list({ limit: 1 })).rejects.toThrow(
      "Cannot list blocks of all volumes: an access list",
    );
    await expect(service.confirm({ refs: [dataRef(VOLUME, 1, 1)], ringVersion: 1 })).rejects.toThrow(
      "confirm blocks",
    );
    expect(calls).toEqual([]);
    expect(denied).toEqual(["alice db", "alice db"]);
  });

  test("lets the heir of a volume read it and no more", async () => {
    const { put, read, fence, answers } = bench();
    answers("read");
    expect([await read(), await put(), (await fence()).status]).toEqual([
      StorageStatus.notFound,
      StorageStatus.denied,
      StorageStatus.denied,
    ]);
  });

  test("answers bytes that name no volume as the service does", async () => {
    const { service, calls, questions } = bench();
    service.put({
      buffer: heapBuffer(16),
      offset: 0,
      lengthBytes: 16,
      writerEpoch: 1,
      done: () => undefined,
    });
    expect([calls, questions()]).toEqual([["put"], 0]);
  });

  test("keeps the order of requests that wait for the decision", async () => {
    const { put, fence, read, calls } = bench();
    await Promise.all([put(), put(), fence(), read(), put()]);
    expect(calls).toEqual(["put", "put", "fence", "read", "put"]);
  });
});

describe("AccessGuard", () => {
  const check = (guard: AccessGuard, volume = 1) =>
    new Promise<Access | undefined>((resolve) => guard.check("alice", asVolumeId(volume), resolve));

  test("asks about a refusal again after a second, and about a permission after a minute, not waiting", async () => {
    const { guard, loop, answers, questions } = bench();
    answers("none");
    expect(await check(guard)).toBe("none");
    answers("use");
    expect(await check(guard)).toBe("none");
    pass(loop, 1_001);
    expect(await check(guard)).toBe("use");
    answers("none");
    pass(loop, 60_001);
    // Behind the caller's back.
    expect(await check(guard)).toBe("use");
    await Promise.resolve();
    expect(await check(guard)).toBe("none");
    expect(questions()).toBe(3);
  });

  test("asks anew when the lists changed", async () => {
    const { guard, answers } = bench();
    expect(await check(guard)).toBe("use");
    answers("none");
    guard.forget();
    expect(await check(guard)).toBe("none");
  });

  test("goes on with a permission while nobody can decide, and refuses nobody for that", async () => {
    const { guard, loop, answers, put, denied } = bench();
    expect(await check(guard)).toBe("use");
    answers(new Error("no metadata"));
    pass(loop, 60_001);
    expect(await check(guard)).toBe("use");
    expect(await check(guard)).toBe("use");
    expect(await check(guard, 2)).toBeUndefined();
    guard.forget();
    expect(await put()).toBe(StorageStatus.unavailable);
    expect(denied).toEqual([]);
  });
});
