/**
 * A peer's service as one caller sees it: every request names a volume, and is passed on when the caller may do this
 * with it. The volume of a put is the one its header names; the service checks the same bytes after.
 */
import type { BlockRef, VolumeId } from "../../base";
import { blockVolumeId } from "../block";
import {
  type ConfirmReply,
  type ConfirmRequest,
  type FenceReply,
  type FenceRequest,
  type ListReply,
  type ListRequest,
  type PeerIdentity,
  type PeerStatistics,
  type ServicePut,
  type ServiceRead,
  StorageStatus,
  type WireStorageService,
} from "../ports";
import { type Access, type AccessGuard, EVERY_VOLUME } from "./access-guard";
import { PeerError } from "./errors";

export class GuardedService implements WireStorageService {
  constructor(
    private readonly service: WireStorageService,
    private readonly guard: AccessGuard,
    private readonly caller: string,
  ) {}

  get identity(): PeerIdentity {
    return this.service.identity;
  }

  put(request: ServicePut): void {
    const volumeId = blockVolumeId(request.buffer, request.offset, request.lengthBytes);
    // Bytes that name no volume are refused as such.
    if (volumeId === undefined) return this.service.put(request);
    this.guard.check(this.caller, volumeId, (access) => {
      const status = this.#refusal(volumeId, access, "use");
      if (status === undefined) this.service.put(request);
      else request.done(status);
    });
  }

  read(request: ServiceRead): void {
    const { volumeId } = request.ref;
    this.guard.check(this.caller, volumeId, (access) => {
      const status = this.#refusal(volumeId, access, "read");
      if (status === undefined) this.service.read(request);
      else request.done(status, undefined, 0, 0, 0);
    });
  }

  fence(request: FenceRequest): Promise<FenceReply> {
    return new Promise((resolve, reject) => {
      this.guard.check(this.caller, request.volumeId, (access) => {
        const status = this.#refusal(request.volumeId, access, "use");
        if (status === undefined) this.service.fence(request).then(resolve, reject);
        else resolve({ ...this.identity, status, epochKnown: 0, tail: [] });
      });
    });
  }

  async list(request: ListRequest): Promise<ListReply> {
    await this.#require(request.volumeId ?? EVERY_VOLUME, "read", "list blocks");
    return this.service.list(request);
  }

  async confirm(request: ConfirmRequest): Promise<ConfirmReply> {
    const volumeIds = new Set(request.refs.map((ref: BlockRef) => ref.volumeId));
    for (const volumeId of volumeIds) await this.#require(volumeId, "read", "confirm blocks");
    return this.service.confirm(request);
  }

  statistics(): Promise<PeerStatistics> {
    return this.service.statistics();
  }

  /** Undefined when it may. */
  #refusal(
    volumeId: VolumeId | typeof EVERY_VOLUME,
    access: Access | undefined,
    needed: "read" | "use",
  ): StorageStatus | undefined {
    if (access === undefined) return StorageStatus.unavailable;
    if (access === "use" || access === needed) return undefined;
    this.guard.denied(this.caller, volumeId);
    return StorageStatus.denied;
  }

  async #require(volumeId: VolumeId | typeof EVERY_VOLUME, needed: "read" | "use", action: string) {
    const access = await new Promise<Access | undefined>((resolve) =>
      this.guard.check(this.caller, volumeId, resolve),
    );
    const status = this.#refusal(volumeId, access, needed);
    if (status === undefined) return;
    const of = volumeId === EVERY_VOLUME ? "of all volumes" : `of volume ${volumeId}`;
    throw status === StorageStatus.denied
      ? new PeerError("denied", `Cannot ${action} ${of}: an access list does not name this certificate`)
      : new PeerError("unavailable", `Cannot ${action} ${of}: the access lists cannot be read now`, {
          retryable: true,
        });
  }
}
