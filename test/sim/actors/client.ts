/**
 * A simulated client machine: again and again it opens the volume (whoever gets the lock), works on it for a while
 * with several requests at once, and closes it, crashes, or is superseded. Every request goes through the page
 * model. All of the volume's code is the production code.
 */
import { heapBuffer, type NativeBuffer, sleep, TorusError } from "../../../src/base";
import { ReadCache } from "../../../src/engine/cache";
import {
  BlockPool,
  BufferPool,
  openVolume,
  type Volume,
  type VolumeOptions,
  VolumeStatus,
} from "../../../src/engine/volume";
import { type MetaContext, MetaRegistry, type MetaVolumeSession } from "../../../src/meta";
import {
  fillSectors,
  PAGE_BYTES,
  type PageContent,
  readContent,
  SECTOR_BYTES,
  SECTORS_PER_PAGE,
  ZERO_PAGE,
} from "../check/page-bytes";
import type { PageModel, Session } from "../check/page-model";
import type { SimMetadata } from "../world/metadata";
import type { SimNetwork } from "../world/network";
import type { Prng } from "../world/prng";
import { SimProcess, Violation, type World } from "../world/world";
import type { Regions } from "./regions";
import type { SnapshotModel } from "../check/snapshot-model";
import type { SimSnapshots } from "./snapshots";

const WRITE_BUFFER_BYTES = 1024 * 1024;
const CACHE_BYTES = 64 * 4096;
const BLOCK_SIZE_BYTES = 64 * 1024;
/** A request that takes longer is a hang: every deadline in the volume is shorter. */
const REQUEST_HANG_MS = 240_000;
const IO_PAGES_MAX = 12;
/** What an owner puts into memory it has back, and how long it looks whether it stays: longer than any deadline. */
const OWNERS_WORD = 0x5a5a5a5a;
const MEMORY_WATCH_MS = 10_000;
const RESTORE_CHANCE = 0.3;
const FIRST_VOLUME_CHANCE = 0.75;

export interface ClientMachine {
  readonly world: World;
  readonly network: SimNetwork;
  readonly metadata: SimMetadata;
  /** Volumes it opens: mostly the first, which has the snapshots. Clones come to this list as they are made. */
  readonly volumes: readonly PageModel[];
  readonly regions: Regions;
  readonly volumeOptions: Partial<VolumeOptions>;
  /** Of the first volume; restores come from here. */
  readonly snapshots?: SimSnapshots;
  readonly leaseTimes: { readonly ttlMs: number; readonly marginMs: number };
  /**
   * Reads everything once, writes a little, and closes. Opens with accept-loss where a torn block at the end of the
   * tail cannot be told from a rotted one: with every peer there, nothing acknowledged may be missing then.
   */
  readonly scanOnly?: boolean;
  /** Does nothing by itself: a directed schedule says what, and when. */
  readonly directed?: boolean;
}

/** What one life of a client is working on. */
interface Life {
  readonly process: SimProcess;
  readonly registry: MetaRegistry;
  readonly random: Prng;
  readonly context: MetaContext;
}

/** From an open of the volume to its end. */
export interface OpenSession {
  readonly volume: Volume;
  readonly work: Work;
  readonly model: PageModel;
  readonly session: Session;
  failed: boolean;
}

export class SimClient {
  process: SimProcess;
  volume: Volume | undefined;
  /** It may put a head that names the peers as they are now. */
  isOpening = false;
  session: Session | undefined;
  /** Off: it opens nothing any more, and closes what it has open. */
  wanted = true;
  /** Goes on with the volume it has, as long as it can. */
  lingers = false;
  /** Called when a volume begins to change its log set. */
  onSetChange: (() => void) | undefined;
  readonly counts = {
    resizes: 0,
    pagesCleaned: 0,
    repairs: 0,
    hedgedReads: 0,
    hedgesWon: 0,
    checkpoints: 0,
    opens: 0,
    opensFailed: 0,
    closes: 0,
    crashes: 0,
    failures: 0,
    errors: 0,
    scans: 0,
    scansComplete: 0,
  };
  private readonly random: Prng;
  private life = 0;
  /** Why the last open was refused. */
  refusal: string | undefined;
  private working = false;

  constructor(
    private readonly machine: ClientMachine,
    readonly name: string,
  ) {
    this.random = machine.world.random.fork(name);
    this.process = new SimProcess(machine.world, name, this.random.fork("process 0"));
    this.process.crash();
  }

  get alive(): boolean {
    return this.process.alive;
  }

  /** Has no volume, and is not about to have one. */
  get idle(): boolean {
    return !this.process.alive || !this.working;
  }

  boot(): void {
    if (this.process.alive) return;
    this.life += 1;
    this.working = false;
    this.lingers = false;
    const process = new SimProcess(this.machine.world, this.name, this.random.fork(`process ${this.life}`));
    this.process = process;
    process.log("boots");
    if (this.machine.directed) return;
    this.run(process).catch((error: unknown) => {
      if (process.alive) this.machine.world.fail(error instanceof Error ? error : new Error(String(error)));
    });
  }

  crash(): void {
    if (!this.process.alive) return;
    this.counts.crashes += 1;
    this.process.log("is killed");
    this.process.crash();
    this.isOpening = false;
    this.volume = undefined;
    this.session = undefined;
  }

  /** Opens the first volume because a directed schedule says so; undefined: it was refused. */
  async open(): Promise<OpenSession | undefined> {
    this.boot();
    return this.begin(await this.startLife(this.process), this.machine.volumes[0] as PageModel);
  }

  private async startLife(process: SimProcess): Promise<Life> {
    const context: MetaContext = {
      store: this.machine.metadata.connect(process),
      clock: process.clock,
      random: process.random,
    };
    const registry = await this.startRegistry(process, context);
    return { process, registry, context, random: this.random.fork(`work ${this.life}`) };
  }

  private async run(process: SimProcess): Promise<void> {
    const life = await this.startLife(process);
    while (process.alive) {
      if (this.wanted) {
        this.working = true;
        await this.workOnce(life);
        this.working = false;
      }
      await sleep(process.clock, 50 + life.random.below(400));
    }
  }

  private async startRegistry(process: SimProcess, context: MetaContext): Promise<MetaRegistry> {
    for (;;)
      try {
        return await MetaRegistry.start(context, { leaseTimes: this.machine.leaseTimes });
      } catch (error) {
        if (!(error instanceof TorusError)) throw error;
        await sleep(process.clock, 300);
      }
  }

  /** One open of the volume, from the lock to the end. */
  private async workOnce(life: Life): Promise<void> {
    const { process, random } = life;
    const { volumes, snapshots, scanOnly } = this.machine;
    const [first] = volumes as [PageModel];
    const model = random.chance(FIRST_VOLUME_CHANCE) ? first : random.pick(volumes);
    const mayRestore = model === first && !scanOnly && random.chance(RESTORE_CHANCE);
    const open = await this.begin(life, model, mayRestore ? snapshots?.pickKnown() : undefined);
    if (open === undefined) return;
    const { work } = open;
    if (scanOnly || random.chance(0.6)) await work.scan();
    const untilMs = process.clock.nowMs() + (scanOnly ? 500 : 500 + random.delayMs(8_000));
    const thinkMs = random.pick([15, 60, 200]);
    const isOver = () => open.failed || !this.wanted || (!this.lingers && process.clock.nowMs() > untilMs);
    const workerCount = 1 + random.below(5);
    if (workerCount === 1 && random.chance(0.5))
      await work.regularWorker(isOver, thinkMs, random.pick([1, 2, 3]));
    else await Promise.all(Array.from({ length: workerCount }, () => work.worker(isOver, thinkMs)));
    await this.close(open);
  }

  /** Takes the lock, opens the volume, and is ready to work on it. */
  private async begin(
    life: Life,
    model: PageModel,
    restored?: SnapshotModel,
  ): Promise<OpenSession | undefined> {
    const { process, registry, random } = life;
    const { snapshots } = this.machine;
    let session: MetaVolumeSession;
    try {
      const options = restored === undefined ? {} : { restoreSnapshot: restored.name };
      session = await registry.openVolume(model.name, this.name, options);
    } catch (error) {
      if (!(error instanceof TorusError)) throw error;
      return undefined;
    }
    if (restored !== undefined) process.log(`restores snapshot ${restored.name}`);
    const restore = restored && model.beginRestore(this.name, session.grant.epoch, restored.contents);
    process.log(`has the lock, epoch ${session.grant.epoch}, head ${describeHead(session)}`);
    this.isOpening = true;
    const volume = await this.openVolume(life, session);
    this.isOpening = false;
    if (volume === undefined) return undefined;
    this.counts.opens += 1;
    this.volume = volume;
    if (restore !== undefined) {
      model.endRestore(restore);
      if (snapshots !== undefined) snapshots.counts.restores += 1;
    }
    const opened = model.openSession(this.name, session.grant.epoch);
    this.session = opened;
    process.log(`opened volume ${model.name}: session ${opened.id}`);
    const work = new Work(this.machine, model, process, volume, opened, random, this.counts);
    const open: OpenSession = { volume, work, model, session: opened, failed: false };
    volume.onFailed = (error) => {
      open.failed = true;
      this.counts.failures += 1;
      process.log(`volume failed: ${error.message}`);
    };
    return open;
  }

  /** The volume is detached. */
  async close({ volume, model, session: opened }: OpenSession): Promise<void> {
    const { process } = this;
    const outcome = await volume.close();
    this.counts.closes += 1;
    if (outcome.clean) model.endClose(opened);
    this.counts.pagesCleaned += volume.statistics.pagesCleaned;
    this.counts.repairs += volume.statistics.repairedCopies;
    this.counts.hedgedReads += volume.statistics.hedgedReads;
    this.counts.hedgesWon += volume.statistics.hedgesWon;
    this.counts.checkpoints += volume.statistics.checkpoints;
    process.log(`closed the volume: ${outcome.clean ? "clean" : outcome.reason}`);
    this.volume = undefined;
    this.session = undefined;
  }

  private async openVolume(life: Life, session: MetaVolumeSession): Promise<Volume | undefined> {
    const { process, registry } = life;
    const { network, volumeOptions, scanOnly } = this.machine;
    const acceptLoss = scanOnly === true && this.refusal === "tail-uncertain";
    const cache = new ReadCache(heapBuffer, CACHE_BYTES);
    try {
      return await openVolume(
        {
          clock: process.clock,
          turns: process.turns,
          transport: network.transport(process),
          registry,
          allocate: heapBuffer,
          blockPool: new BlockPool(heapBuffer, BLOCK_SIZE_BYTES, WRITE_BUFFER_BYTES),
          bufferPool: new BufferPool(heapBuffer, BLOCK_SIZE_BYTES, 8),
          makeCache: () => cache.openSpace(),
          onEvent: (event) => {
            process.log(`${event.level}: ${event.text}`);
            if (event.text.includes("log set changes")) this.onSetChange?.();
          },
        },
        session,
        { ...volumeOptions, acceptLoss },
      );
    } catch (error) {
      this.counts.opensFailed += 1;
      if (!(error instanceof TorusError)) throw error;
      process.log(`cannot open: ${error.message}`);
      this.refusal = error.code;
      return undefined;
    }
  }
}

function describeHead(session: MetaVolumeSession): string {
  const { head } = session.grant;
  return `${head.epoch}/${head.dataIndex}/${head.inodeIndex} S=${head.log.members.length} W=${head.log.width} ring ${head.log.ringVersion}`;
}

/** The requests of one session. */
export class Work {
  private readonly busyPages = new Set<number>();

  constructor(
    private readonly machine: ClientMachine,
    private readonly model: PageModel,
    private readonly process: SimProcess,
    private readonly volume: Volume,
    private readonly session: Session,
    private readonly random: Prng,
    private readonly counts: { errors: number; scans: number; scansComplete: number; resizes: number },
  ) {}

  async worker(isOver: () => boolean, thinkMs: number): Promise<void> {
    while (!isOver()) {
      await this.request();
      await sleep(this.process.clock, this.random.delayMs(thinkMs));
    }
  }

  /** Flushes after every few writes, as a journal does: what follows a number of writes can be foreseen. */
  async regularWorker(isOver: () => boolean, thinkMs: number, writesPerFlush: number): Promise<void> {
    while (!isOver()) {
      for (let count = 0; count < writesPerFlush; count++) await this.transfer("write");
      await this.flush();
      await sleep(this.process.clock, this.random.delayMs(thinkMs));
    }
  }

  /** Reads every page there is before anything is written, and holds what it finds to be a prefix. */
  async scan(): Promise<void> {
    this.counts.scans += 1;
    let complete = true;
    for (const { firstPage, pageCount } of this.machine.regions.ranges)
      for (let page = firstPage; page < firstPage + pageCount; page += 16) {
        const count = this.fitting(page, Math.min(16, firstPage + pageCount - page));
        if (count > 0) complete &&= await this.read(page, count);
      }
    if (!complete) return;
    this.counts.scansComplete += 1;
    this.model.checkPrefix(this.session);
  }

  private async request(): Promise<void> {
    const kind = this.random.weighted([
      { weight: 40, item: "write" as const },
      { weight: 8, item: "part" as const },
      { weight: 6, item: "trim" as const },
      { weight: 22, item: "read" as const },
      { weight: 20, item: "flush" as const },
      { weight: this.machine.scanOnly ? 0 : 0.3, item: "resize" as const },
    ]);
    if (kind === "flush") {
      await this.flush();
      return;
    }
    if (kind === "resize") {
      await this.resize();
      return;
    }
    if (kind !== undefined) await this.transfer(kind);
  }

  private async transfer(kind: "write" | "part" | "trim" | "read"): Promise<void> {
    const range = this.machine.regions.pick(this.random, IO_PAGES_MAX);
    const { firstPage } = range;
    const pageCount = this.fitting(firstPage, range.pageCount);
    if (pageCount === 0) return;
    if (kind === "read") {
      await this.read(firstPage, pageCount);
      return;
    }
    const pages = Array.from({ length: kind === "part" ? 1 : pageCount }, (_, index) => firstPage + index);
    if (pages.some((page) => this.busyPages.has(page))) return;
    for (const page of pages) this.busyPages.add(page);
    if (kind === "part") await this.writePart(firstPage);
    else await this.write(firstPage, pages.length, kind === "trim");
    for (const page of pages) this.busyPages.delete(page);
  }

  /** How many of these pages lie within the volume's present size. */
  private fitting(firstPage: number, pageCount: number): number {
    return Math.max(0, Math.min(pageCount, this.volume.sizeBytes / PAGE_BYTES - firstPage));
  }

  /** Cuts the volume's end off, which trims it, or grows it to its full size again. */
  private async resize(): Promise<void> {
    const { regions } = this.machine;
    const grows = this.volume.sizeBytes < regions.sizeBytes;
    const lost = grows ? [] : regions.pages().filter((page) => page * PAGE_BYTES >= regions.smallSizeBytes);
    if (lost.some((page) => this.busyPages.has(page))) return;
    for (const page of lost) this.busyPages.add(page);
    const operation = this.model.beginWrite(
      this.session,
      lost.map((page) => ({ page, content: ZERO_PAGE })),
    );
    let outcome = "done";
    try {
      await this.volume.resize(grows ? regions.sizeBytes : regions.smallSizeBytes, { shrink: !grows });
      this.counts.resizes += 1;
    } catch (error) {
      if (!(error instanceof TorusError)) throw error;
      outcome = error.message;
    }
    this.process.log(`${grows ? "grow" : "shrink"}: ${outcome}`);
    this.model.endWrite(operation, outcome === "done", outcome === "done");
    for (const page of lost) this.busyPages.delete(page);
  }

  async write(
    firstPage: number,
    pageCount: number,
    trim = false,
    durable = this.random.chance(0.1),
  ): Promise<void> {
    const { model } = this;
    const writeId = trim ? 0 : model.nextWriteId();
    const content: PageContent = trim ? ZERO_PAGE : new Array<number>(SECTORS_PER_PAGE).fill(writeId);
    const contents = Array.from({ length: pageCount }, (_, index) => ({ page: firstPage + index, content }));
    const operation = model.beginWrite(this.session, contents);
    const offset = firstPage * PAGE_BYTES;
    const length = pageCount * PAGE_BYTES;
    let status: VolumeStatus;
    if (trim)
      status = await this.wait(`trim ${firstPage}+${pageCount}`, (done) =>
        this.volume.trim(offset, length, durable, done),
      );
    else {
      const source = heapBuffer(length);
      for (let index = 0; index < pageCount; index += 1)
        fillSectors(source.words, (index * PAGE_BYTES) / 4, firstPage + index, 0, SECTORS_PER_PAGE, writeId);
      status = await this.wait(`write ${firstPage}+${pageCount} #${writeId}`, (done) =>
        this.volume.write(offset, length, source, 0, durable, done),
      );
      // The device had it until now: whatever happens to it afterwards must not matter.
      source.bytes.fill(0xee);
    }
    const ok = status === VolumeStatus.ok;
    this.process.log(
      `${trim ? "trim" : "write"} ${firstPage}+${pageCount} #${writeId}${durable ? " fua" : ""}: ${status}`,
    );
    model.endWrite(operation, ok, durable);
    if (!ok) this.counts.errors += 1;
  }

  /** Some sectors of a page whose content is known. */
  private async writePart(page: number): Promise<void> {
    const { model } = this;
    const before = model.knownContent(this.session, page);
    if (before === undefined) return;
    const first = this.random.below(SECTORS_PER_PAGE);
    const count = this.random.between(1, SECTORS_PER_PAGE - first);
    const writeId = model.nextWriteId();
    const content = before.map((id, sector) => (sector >= first && sector < first + count ? writeId : id));
    const operation = model.beginWrite(this.session, [{ page, content }]);
    const source = heapBuffer(count * SECTOR_BYTES);
    fillSectors(source.words, 0, page, first, count, writeId);
    const offset = page * PAGE_BYTES + first * SECTOR_BYTES;
    const status = await this.wait(`write to page ${page} #${writeId}`, (done) =>
      this.volume.write(offset, count * SECTOR_BYTES, source, 0, false, done),
    );
    this.process.log(`write ${page} sectors ${first}+${count} #${writeId}: ${status}`);
    model.endWrite(operation, status === VolumeStatus.ok, false);
    if (status !== VolumeStatus.ok) this.counts.errors += 1;
  }

  async flush(): Promise<void> {
    const { model } = this;
    const covered = model.beginFlush(this.session);
    const status = await this.wait(`flush of ${covered}`, (done) => this.volume.flush(done));
    this.process.log(`flush of ${covered}: ${status}`);
    model.endFlush(this.session, covered, status === VolumeStatus.ok);
    if (status !== VolumeStatus.ok) this.counts.errors += 1;
  }

  async read(firstPage: number, pageCount: number): Promise<boolean> {
    const { model } = this;
    const start = model.beginRead(this.session, firstPage, pageCount);
    const destination: NativeBuffer = heapBuffer(pageCount * PAGE_BYTES);
    destination.bytes.fill(0xdd);
    const status = await this.wait(`read ${firstPage}+${pageCount}`, (done) =>
      this.volume.read(firstPage * PAGE_BYTES, pageCount * PAGE_BYTES, destination, 0, done),
    );
    if (status !== VolumeStatus.ok) {
      this.process.log(`read ${firstPage}+${pageCount}: ${status}`);
      this.counts.errors += 1;
      this.keepWatch(destination);
      return false;
    }
    const contents = Array.from({ length: pageCount }, (_, index) =>
      readContent(destination.words, (index * PAGE_BYTES) / 4, firstPage + index),
    );
    this.keepWatch(destination);
    model.endRead(start, contents);
    return true;
  }

  /** The memory of an answered request is its owner's: nothing may be written to it, however late. */
  private keepWatch(destination: NativeBuffer): void {
    const { world } = this.machine;
    destination.words.fill(OWNERS_WORD);
    world.schedule(MEMORY_WATCH_MS, undefined, () => {
      if (destination.words.some((word) => word !== OWNERS_WORD))
        world.fail(
          new Violation("answers", `${this.process.name}: memory of an answered read was written to`),
        );
    });
  }

  /** A request must be answered once, and not hang while its process runs. */
  private wait(what: string, start: (done: (status: VolumeStatus) => void) => void): Promise<VolumeStatus> {
    const { world } = this.machine;
    const begunMs = world.nowMs;
    return new Promise((resolve) => {
      let answered = false;
      const hang = this.process.clock.schedule(REQUEST_HANG_MS, () => {
        world.fail(
          new Violation(
            "liveness",
            `${this.process.name}: ${what}, begun at ${begunMs.toFixed(3)}, was not answered in ${REQUEST_HANG_MS / 1000} s`,
          ),
        );
      });
      start((status) => {
        if (answered) {
          world.fail(new Violation("answers", `${this.process.name}: ${what} was answered twice`));
          return;
        }
        answered = true;
        hang.cancel();
        resolve(status);
      });
    });
  }
}
