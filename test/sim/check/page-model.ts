/**
 * What each page of a volume may hold: the oracle of a simulation. Every page has its history of versions in the
 * order they were submitted; clients keep writes to one page apart, so within a session that is the order in which
 * they take effect. Against it the checkers hold:
 *
 *  - freshness (invariants 1, 2): a read returns one whole version, not older than what was acknowledged by a flush,
 *    or had been written or read in this session, before the read began;
 *  - lease (R13): no read that began after another session opened is answered;
 *  - stale writer (invariant 4): a flush never covers a write made after another session opened;
 *  - prefix (invariant 3): a session that finds a write of an earlier one finds all that had ended before it began.
 */
import { Violation } from "../world/world";
import { describeContent, type PageContent, sameContent, ZERO_PAGE } from "./page-bytes";

interface Version {
  readonly content: PageContent;
  readonly session: Session | undefined;
  readonly submitted: number;
  /** 0: not (yet, or never) answered with ok. */
  completed: number;
}

interface Page {
  readonly versions: Version[];
  /** Index of the newest version that may not be lost any more. */
  floor: number;
}

export interface WriteOperation {
  readonly session: Session;
  readonly parts: readonly { readonly page: number; readonly index: number }[];
  done: boolean;
}

export interface ReadStart {
  readonly session: Session;
  readonly started: number;
  readonly firstPage: number;
  /** Per page, the oldest version that may be returned. */
  readonly oldest: readonly number[];
}

/** Versions of one page, by index, both included. */
export interface PageSpan {
  readonly oldest: number;
  readonly newest: number;
}

/** Per page, what was durable, and what had ended, when a snapshot was asked for. */
export interface SnapshotStart {
  readonly sessionId: number;
  readonly oldest: ReadonlyMap<number, number>;
  readonly ended: ReadonlyMap<number, number>;
}

/** One open of the volume by one client. */
export class Session {
  opened = 0;
  /** Pages whose present version this session knows, and its index. */
  readonly known = new Map<number, number>();
  readonly completed: WriteOperation[] = [];
  /** How many of `completed` were acknowledged by a flush. */
  durableCount = 0;

  constructor(
    readonly id: number,
    readonly client: string,
    readonly epoch: number,
  ) {}

  /** By epoch: one that was stopped within its open may hear of its end long after it was superseded. */
  isNewerThan(other: Session): boolean {
    return this.epoch === other.epoch ? this.id > other.id : this.epoch > other.epoch;
  }
}

export class PageModel {
  /** Advances with every event, so that before and after are plain comparisons. */
  private moment = 1;
  private writeId = 0;
  private sessionId = 0;
  private readonly pages = new Map<number, Page>();
  private readonly sessions: Session[] = [];
  readCount = 0;
  writeCount = 0;
  flushCount = 0;

  /** A clone starts with the pages of a snapshot. */
  constructor(
    readonly name: string,
    private readonly initial: ReadonlyMap<number, PageContent> = new Map(),
  ) {}

  beginSnapshot(pages: Iterable<number>): SnapshotStart {
    this.tick();
    const oldest = new Map([...pages].map((page) => [page, this.page(page).floor]));
    const ended = new Map([...oldest].map(([page, floor]) => [page, this.newestEnded(page, floor)]));
    return { sessionId: this.sessionId, oldest, ended };
  }

  /**
   * What the snapshot may hold, now that it exists: what was durable when it was asked for, or newer; when nobody
   * opened the volume meanwhile, all that had ended by then (R9).
   */
  endSnapshot(start: SnapshotStart): Map<number, PageSpan> {
    this.tick();
    const oldest = start.sessionId === this.sessionId ? start.ended : start.oldest;
    return new Map(
      [...oldest].map(([page, index]) => [
        page,
        { oldest: index, newest: this.page(page).versions.length - 1 },
      ]),
    );
  }

  /** Index of the newest version that the newest session ended, or `floor`. */
  private newestEnded(page: number, floor: number): number {
    const newest = this.sessions.at(-1);
    return this.page(page).versions.findLastIndex(
      ({ completed, session }, index) =>
        index === floor || (index > floor && completed > 0 && session === newest),
    );
  }

  couldHold(page: number, content: PageContent, span: PageSpan): boolean {
    return this.page(page)
      .versions.slice(span.oldest, span.newest + 1)
      .some((version) => sameContent(version.content, content));
  }

  /**
   * The volume may be put back to these contents from now on; `endRestore` says that it was. Until then, and for
   * good when the outcome stays unknown, each page may be either.
   */
  beginRestore(client: string, epoch: number, contents: ReadonlyMap<number, PageContent>): WriteOperation {
    this.sessionId += 1;
    return this.beginWrite(
      new Session(this.sessionId, client, epoch),
      [...contents].map(([page, content]) => ({ page, content })),
    );
  }

  endRestore(operation: WriteOperation): void {
    this.endWrite(operation, true, true);
  }

  nextWriteId(): number {
    this.writeId += 1;
    return this.writeId;
  }

  /** The pages that were ever written. */
  writtenPages(): number[] {
    return [...this.pages.keys()].sort((a, b) => a - b);
  }

  /** The session's volume took its first request now; older sessions' later writes can never be seen by it. */
  openSession(client: string, epoch: number): Session {
    this.sessionId += 1;
    const session = new Session(this.sessionId, client, epoch);
    session.opened = this.tick();
    this.sessions.push(session);
    return session;
  }

  /** What the page holds for this session, when it knows. */
  knownContent(session: Session, page: number): PageContent | undefined {
    const index = session.known.get(page);
    return index === undefined ? undefined : this.page(page).versions[index]?.content;
  }

  beginWrite(session: Session, contents: readonly { page: number; content: PageContent }[]): WriteOperation {
    const submitted = this.tick();
    const parts = contents.map(({ page, content }) => {
      const { versions } = this.page(page);
      versions.push({ content, session, submitted, completed: 0 });
      // Until it is answered nobody can tell which version the page has.
      session.known.delete(page);
      return { page, index: versions.length - 1 };
    });
    this.writeCount += 1;
    return { session, parts, done: false };
  }

  endWrite(operation: WriteOperation, ok: boolean, durable: boolean): void {
    const now = this.tick();
    operation.done = true;
    if (!ok) return;
    const { session } = operation;
    for (const { page, index } of operation.parts) {
      (this.page(page).versions[index] as Version).completed = now;
      session.known.set(page, index);
    }
    session.completed.push(operation);
    if (durable) this.makeDurable(operation);
  }

  /** Returns what a flush that begins now covers. */
  beginFlush(session: Session): number {
    return session.completed.length;
  }

  endFlush(session: Session, covered: number, ok: boolean): void {
    this.tick();
    if (!ok) return;
    this.flushCount += 1;
    for (; session.durableCount < covered; session.durableCount += 1)
      this.makeDurable(session.completed[session.durableCount] as WriteOperation);
  }

  /** The volume was detached cleanly: all that had ended is durable (R6). */
  endClose(session: Session): void {
    this.endFlush(session, session.completed.length, true);
  }

  beginRead(session: Session, firstPage: number, pageCount: number): ReadStart {
    const started = this.tick();
    const oldest: number[] = [];
    for (let page = firstPage; page < firstPage + pageCount; page += 1)
      oldest.push(Math.max(this.page(page).floor, session.known.get(page) ?? 0));
    return { session, started, firstPage, oldest };
  }

  /** Checks what a read that was answered with ok returned, page by page. */
  endRead(start: ReadStart, contents: readonly (PageContent | string)[]): void {
    this.tick();
    this.readCount += 1;
    const { session, started, firstPage } = start;
    const newer = this.sessions.find((other) => other.isNewerThan(session) && other.opened < started);
    if (newer !== undefined)
      throw new Violation(
        "lease",
        `${session.client} (session ${session.id}) was answered a read of page ${firstPage} although ${newer.client} had opened the volume (session ${newer.id}) before it began`,
      );
    for (const [offset, content] of contents.entries())
      this.checkPage(session, firstPage + offset, content, start.oldest[offset] as number);
  }

  /** After a session read every page before it wrote anything: what it found of each session must be a prefix. */
  checkPrefix(session: Session): void {
    const newest = new Map<Session, { submitted: number; page: number }>();
    for (const [page, index] of session.known) {
      const { versions } = this.page(page);
      const version = versions[index] as Version;
      // Zeroes that may as well be a later session's trim say nothing of this one's end.
      const isAmbiguous = versions
        .slice(index + 1)
        .some((later) => later.session !== version.session && sameContent(later.content, version.content));
      if (isAmbiguous) continue;
      const known = version.session && newest.get(version.session);
      if (version.session && (known === undefined || known.submitted < version.submitted))
        newest.set(version.session, { submitted: version.submitted, page });
    }
    for (const [page, index] of session.known) this.checkPagePrefix(session, page, index, newest);
  }

  private checkPagePrefix(
    session: Session,
    page: number,
    index: number,
    newest: ReadonlyMap<Session, { readonly submitted: number; readonly page: number }>,
  ): void {
    const { versions } = this.page(page);
    const found = versions[index] as Version;
    // Zeroes may be of any trim: take the newest that looks the same.
    let last = versions.length - 1;
    while (last > index && !sameContent((versions[last] as Version).content, found.content)) last -= 1;
    for (const version of versions.slice(last + 1)) {
      const reference = version.session && newest.get(version.session);
      if (reference === undefined || version.completed === 0 || version.completed >= reference.submitted)
        continue;
      throw new Violation(
        "prefix",
        `${session.client} (session ${session.id}) found page ${page} at ${describeContent(found.content)} without ${describeContent(version.content)}, which had ended before what it found in page ${reference.page} was begun`,
      );
    }
  }

  private checkPage(session: Session, page: number, content: PageContent | string, oldest: number): void {
    const state = this.page(page);
    const where = `${session.client} (session ${session.id}) read page ${page}`;
    if (typeof content === "string") throw new Violation("torn", `${where}: ${content}`);
    const { versions } = state;
    const matches: number[] = [];
    for (let index = oldest; index < versions.length; index += 1) {
      const version = versions[index] as Version;
      if (isVisible(version, session) && sameContent(version.content, content)) matches.push(index);
    }
    if (matches.length > 0) {
      this.remember(session, page, matches);
      return;
    }
    const older = versions.findLastIndex(
      (version, index) => index < oldest && sameContent(version.content, content),
    );
    const expected = (versions[oldest] as Version).content;
    const found = describeContent(content);
    if (older >= 0)
      throw new Violation(
        "freshness",
        `${where} and got ${found} (version ${older}), older than ${describeContent(expected)} (version ${oldest}), which was acknowledged or seen before`,
      );
    throw new Violation(
      "freshness",
      `${where} and got ${found}, which it can never hold: it is at ${describeContent(expected)} (version ${oldest}) or newer`,
    );
  }

  /** Several versions may look the same (zeroes): only what holds for all of them is concluded. */
  private remember(session: Session, page: number, matches: readonly number[]): void {
    const state = this.page(page);
    const oldest = matches[0] as number;
    const isOwn = matches.some((index) => (state.versions[index] as Version).session === session);
    // What an earlier session wrote was adopted by the open, and is durable with it.
    if (!isOwn) state.floor = Math.max(state.floor, oldest);
    const isLatest = !state.versions.slice(oldest + 1).some((later) => later.session === session);
    if (isLatest && oldest >= (session.known.get(page) ?? 0)) session.known.set(page, oldest);
  }

  private makeDurable(operation: WriteOperation): void {
    for (const { page, index } of operation.parts) {
      const state = this.page(page);
      const version = state.versions[index] as Version;
      const { session } = operation;
      const newer = this.sessions.find(
        (other) => other.isNewerThan(session) && other.opened < version.submitted,
      );
      if (newer !== undefined)
        throw new Violation(
          "stale writer",
          `${session.client} (session ${session.id}) was acknowledged a write to page ${page} that began after ${newer.client} had opened the volume (session ${newer.id})`,
        );
      state.floor = Math.max(state.floor, index);
    }
  }

  private page(page: number): Page {
    let state = this.pages.get(page);
    if (state === undefined) {
      const content = this.initial.get(page) ?? ZERO_PAGE;
      const first: Version = { content, session: undefined, submitted: 0, completed: 0 };
      state = { versions: [first], floor: 0 };
      this.pages.set(page, state);
    }
    return state;
  }

  private tick(): number {
    this.moment += 1;
    return this.moment;
  }
}

/** Sessions see their own writes, and those that older ones had begun before they opened. */
function isVisible(version: Version, session: Session): boolean {
  if (version.session === undefined || version.session === session) return true;
  return session.isNewerThan(version.session) && version.submitted < session.opened;
}
