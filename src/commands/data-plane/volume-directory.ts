/**
 * The exports a front end offers: volumes and snapshots, opened when the first client asks, shared by all of them
 * so that they have one coherent view, and detached cleanly when the last one leaves. A volume that failed (its
 * lock was lost, a newer writer fenced it) answers errors to those who have it and is opened afresh for the next.
 */
import { TorusError } from "../../base";
import type { BlockDevice, DeviceDescription, DeviceDirectory } from "../../blockdev";

/** As whose successor a volume was opened. */
export interface VolumeWriter {
  readonly epoch: number;
  /** Of the last writer that did any I/O before. */
  readonly previousEpoch: number;
}

/** An open volume or snapshot, as whoever constructs engines hands it over. */
export interface OpenDevice {
  readonly device: BlockDevice;
  /** Says why when the device can never work again. */
  failure(): string | undefined;
  /** Calls back once when `failure` begins to say something; at once if it does. */
  onFailure?(listener: () => void): void;
  /** Of a volume, not of a snapshot. */
  readonly writer?: VolumeWriter;
  /** How long the writer's lease is good for without another word of the metadata; negative once it is past. */
  leaseRemainingMs?(): number;
  /** Detaches: acknowledges everything, checkpoints, gives up the lock. Throws when that could not be done. */
  close(): Promise<void>;
}

export interface DeviceOpener {
  openVolume(name: string): Promise<OpenDevice>;
  openSnapshot(volumeName: string, snapshotName: string): Promise<OpenDevice>;
}

export interface ExportDescription extends DeviceDescription {
  /** Of the volume or snapshot, whatever its name: the same always, and never of another. */
  readonly identity: string;
}

/** What metadata says exists; asked of the main thread. */
export interface ExportCatalog {
  list(): Promise<readonly DeviceDescription[]>;
  describe(exportName: string): Promise<ExportDescription | undefined>;
}

export interface VolumeDirectoryOptions {
  readonly opener: DeviceOpener;
  readonly catalog: ExportCatalog;
  /** Volumes that may be exported, with their snapshots; undefined: all. */
  readonly only: readonly string[] | undefined;
  readonly onEvent: (level: "info" | "warn" | "error", message: string) => void;
}

interface Entry {
  readonly identity: string;
  /** By which it was opened first. */
  readonly name: string;
  readonly opening: Promise<OpenDevice>;
  /** Clients that hold it, and one for `keepOpen`. */
  users: number;
  open?: OpenDevice;
  closing?: Promise<void>;
}

/** Splits `volume@snapshot`; a volume's name cannot hold an @. */
export function parseExportName(exportName: string): { readonly volume: string; readonly snapshot?: string } {
  const at = exportName.indexOf("@");
  return at < 0
    ? { volume: exportName }
    : { volume: exportName.slice(0, at), snapshot: exportName.slice(at + 1) };
}

export class VolumeDirectory implements DeviceDirectory {
  readonly #entries = new Map<string, Entry>();
  /** The identities of what is open, by the names under which it was asked for. */
  readonly #identities = new Map<string, string>();
  #closed = false;

  constructor(private readonly options: VolumeDirectoryOptions) {}

  async list(): Promise<readonly DeviceDescription[]> {
    return (await this.options.catalog.list()).filter((one) => this.#isOffered(one.name));
  }

  async describe(exportName: string): Promise<DeviceDescription | undefined> {
    const name = this.#resolve(exportName);
    if (name === undefined) return undefined;
    const identity = await this.#identify(name);
    return identity === undefined
      ? undefined
      : (this.#entries.get(identity)?.open?.device ?? this.options.catalog.describe(name));
  }

  async acquire(
    exportName: string,
  ): Promise<{ readonly device: BlockDevice; release(): Promise<void> } | undefined> {
    const taken = await this.take(exportName);
    return taken && { device: taken.open.device, release: taken.release };
  }

  /** `acquire` for who wants to know more than the device. `release` throws when the detach was not clean. */
  async take(
    exportName: string,
  ): Promise<{ readonly open: OpenDevice; release(): Promise<void> } | undefined> {
    const name = this.#resolve(exportName);
    if (name === undefined) return undefined;
    const identity = await this.#identify(name);
    if (identity === undefined) return undefined;
    const entry = await this.#take(identity, name);
    try {
      const open = await entry.opening;
      let released = false;
      return {
        open,
        release: async () => {
          if (released) return;
          released = true;
          await this.#give(entry);
        },
      };
    } catch (error) {
      this.#drop(entry);
      throw error;
    }
  }

  /** Opens a volume and keeps it open until `close`, whether or not a client uses it. */
  async keepOpen(name: string): Promise<BlockDevice> {
    // What does not exist is for the opener to say.
    const entry = await this.#take((await this.#identify(name)) ?? name, name);
    try {
      return (await entry.opening).device;
    } catch (error) {
      this.#drop(entry);
      throw error;
    }
  }

  /** Devices open now. */
  openDevices(): readonly { readonly name: string; readonly open: OpenDevice; readonly users: number }[] {
    const devices = [];
    for (const { name, open, users } of this.#entries.values()) if (open) devices.push({ name, open, users });
    return devices;
  }

  /** Detaches everything; the first error is thrown after all were tried. */
  async close(): Promise<void> {
    this.#closed = true;
    const results = await Promise.allSettled(
      [...this.#entries.values()].map(async (entry) => {
        await entry.opening.catch(() => undefined);
        await this.#detach(entry);
      }),
    );
    const failed = results.find((result) => result.status === "rejected");
    if (failed) throw failed.reason;
  }

  #isOffered(exportName: string): boolean {
    const { only } = this.options;
    // A volume that is named comes with its snapshots; a snapshot that is named comes alone.
    return (
      only === undefined || only.includes(exportName) || only.includes(parseExportName(exportName).volume)
    );
  }

  /** The empty name is the only volume there is to serve, if there is just one. */
  #resolve(exportName: string): string | undefined {
    const { only } = this.options;
    if (exportName === "") return only?.length === 1 ? only[0] : undefined;
    return this.#isOffered(exportName) ? exportName : undefined;
  }

  /**
   * Which device a name means: what metadata says now. Where that knows no such name (any more) or does not answer,
   * it is what is open by it: clients of a volume that was renamed come back by the name they have.
   */
  async #identify(name: string): Promise<string | undefined> {
    const opened = this.#identities.get(name);
    try {
      return (await this.options.catalog.describe(name))?.identity ?? opened;
    } catch (error) {
      if (opened === undefined) throw error;
      return opened;
    }
  }

  async #take(identity: string, name: string): Promise<Entry> {
    for (;;) {
      if (this.#closed)
        throw new TorusError("shutting-down", `Cannot open volume "${name}": the server is shutting down`);
      const entry = this.#entries.get(identity);
      if (entry?.closing !== undefined) {
        await entry.closing.catch(() => undefined);
        continue;
      }
      const failure = entry?.open?.failure();
      if (entry !== undefined && failure !== undefined) {
        this.options.onEvent("warn", `Opening volume "${name}" afresh: it had failed: ${failure}`);
        await this.#detach(entry).catch(() => undefined);
        continue;
      }
      this.#identities.set(name, identity);
      if (entry !== undefined) {
        entry.users++;
        return entry;
      }
      return this.#open(identity, name);
    }
  }

  #open(identity: string, name: string): Entry {
    const { volume, snapshot } = parseExportName(name);
    const { opener } = this.options;
    const opening =
      snapshot === undefined ? opener.openVolume(volume) : opener.openSnapshot(volume, snapshot);
    const entry: Entry = { identity, name, opening, users: 1 };
    this.#entries.set(identity, entry);
    opening.then(
      (open) => {
        entry.open = open;
        this.options.onEvent("info", `Opened "${name}"`);
      },
      // Reported by whoever awaits it; an entry that nobody holds any more goes.
      () => undefined,
    );
    return entry;
  }

  #drop(entry: Entry): void {
    entry.users--;
    if (entry.users <= 0) this.#forget(entry);
  }

  async #give(entry: Entry): Promise<void> {
    entry.users--;
    if (entry.users <= 0) await this.#detach(entry);
  }

  #forget(entry: Entry): void {
    if (this.#entries.get(entry.identity) !== entry) return;
    this.#entries.delete(entry.identity);
    for (const [name, identity] of this.#identities)
      if (identity === entry.identity) this.#identities.delete(name);
  }

  async #detach(entry: Entry): Promise<void> {
    const { name } = entry;
    entry.closing ??= (async () => {
      try {
        await entry.open?.close();
        this.options.onEvent("info", `Closed "${name}"`);
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        this.options.onEvent("error", `Cannot detach "${name}" cleanly: ${reason}`);
        throw error;
      } finally {
        this.#forget(entry);
      }
    })();
    return entry.closing;
  }
}
