/** The cluster as a volume sees it now: the ring, built once per version, and who is registered. */
import type { PeerId } from "../../base";
import { buildRing, type Ring } from "../../ring";
import type { ClusterView, VolumeRegistry } from "../ports";
import type { ReaderView } from "./block-reader";

export class ClusterFollower implements ReaderView {
  /** Called after every change. */
  onChange: () => void = () => {};
  readonly #stop: () => void;
  #view: ClusterView;
  #ring: Ring;
  #peerIds: readonly PeerId[];

  constructor(registry: Pick<VolumeRegistry, "cluster" | "onClusterChange">) {
    this.#view = registry.cluster();
    this.#ring = buildRing(this.#view.ring);
    this.#peerIds = this.#view.peers.map((peer) => peer.peerId);
    this.#stop = registry.onClusterChange((view) => this.#take(view));
  }

  get view(): ClusterView {
    return this.#view;
  }

  ring(): Ring {
    return this.#ring;
  }

  peers(): readonly PeerId[] {
    return this.#peerIds;
  }

  /** `node uuid (address)` for messages. */
  describe(peer: PeerId): string {
    const record = this.#view.peers.find((one) => one.peerId === peer);
    return record ? `${peer} (${record.address})` : peer;
  }

  close(): void {
    this.#stop();
  }

  #take(view: ClusterView): void {
    const ringChanged = view.ring.version !== this.#view.ring.version;
    this.#view = view;
    this.#peerIds = view.peers.map((peer) => peer.peerId);
    if (ringChanged) this.#ring = buildRing(view.ring);
    this.onChange();
  }
}
