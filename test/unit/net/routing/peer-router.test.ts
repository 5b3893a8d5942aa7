import { describe, expect, test } from "bun:test";
import { asEpoch, asVolumeId, type PeerId } from "../../../../src/base";
import type { PeerTransport } from "../../../../src/engine";
import { PeerRouter, schemeOf } from "../../../../src/net/routing";
import { RecordedPut, RecordedRead, testBlock, testPeer, testRef } from "../../../support/peer-blocks";

/** Notes which transport was asked for what, and answers nothing. */
class Noted implements PeerTransport {
  readonly asked: string[] = [];
  put(peer: PeerId): void {
    this.asked.push(`put ${peer.at(-1)}`);
  }
  read(peer: PeerId): void {
    this.asked.push(`read ${peer.at(-1)}`);
  }
  withdrawRead(peer: PeerId): boolean {
    this.asked.push(`withdraw ${peer.at(-1)}`);
    return false;
  }
  fence(peer: PeerId): Promise<never> {
    return this.#refuse(`fence ${peer.at(-1)}`);
  }
  list(peer: PeerId): Promise<never> {
    return this.#refuse(`list ${peer.at(-1)}`);
  }
  confirm(peer: PeerId): Promise<never> {
    return this.#refuse(`confirm ${peer.at(-1)}`);
  }
  statistics(peer: PeerId): Promise<never> {
    return this.#refuse(`statistics ${peer.at(-1)}`);
  }
  isLikelyUp(peer: PeerId): boolean {
    this.asked.push(`up ${peer.at(-1)}`);
    return true;
  }
  #refuse(asked: string): Promise<never> {
    this.asked.push(asked);
    return Promise.reject(new Error("not answered"));
  }
}

describe("PeerRouter", () => {
  test("asks the transport that the peer's address names, also after it changed", async () => {
    const [adp, http] = [new Noted(), new Noted()];
    const addresses = new Map([
      [testPeer(1), "adp://10.0.0.1:4"],
      [testPeer(2), "http://10.0.0.2:5"],
      [testPeer(4), "carrier-pigeon://loft"],
    ]);
    const router = new PeerRouter({
      transports: new Map([
        ["adp", adp],
        ["http", http],
      ]),
      addressOf: (peer) => addresses.get(peer),
    });
    const block = testBlock(1, 1);
    for (const number of [1, 2, 3, 4]) {
      const peer = testPeer(number);
      router.put(peer, new RecordedPut(block));
      router.read(peer, new RecordedRead(testRef(1), 0, 1));
      router.isLikelyUp(peer);
      const fence = { volumeId: asVolumeId(1), epoch: asEpoch(2), tailEpoch: 1, tailAfterIndex: 0 };
      await Promise.allSettled([
        router.fence(peer, fence),
        router.list(peer, { limit: 1 }),
        router.confirm(peer, { refs: [], ringVersion: 1 }),
        router.statistics(peer),
      ]);
    }
    const calls = (number: number) =>
      ["put", "read", "up", "fence", "list", "confirm", "statistics"].map((name) => `${name} ${number}`);
    expect(adp.asked).toEqual([1, 3, 4].flatMap(calls));
    expect(http.asked).toEqual(calls(2));
    addresses.set(testPeer(1), "http://10.0.0.1:5");
    router.put(testPeer(1), new RecordedPut(block));
    expect(http.asked.at(-1)).toBe("put 1");
  });

  test("schemeOf reads what stands before ://", () => {
    expect(["adp://h:1", "http://x", "h:1", "://x", ""].map(schemeOf)).toEqual([
      "adp",
      "http",
      undefined,
      undefined,
      undefined,
    ]);
  });
});
