/**
 * What a snapshot may hold, and that it never changes (invariant 8). Its content is some moment between its request
 * and its answer: per page a version not older than what was durable then, and not newer than what existed at the
 * end. Whoever reads it first decides which; everybody after must find the same.
 */
import { Violation } from "../world/world";
import { describeContent, type PageContent, sameContent } from "./page-bytes";
import type { PageModel, PageSpan } from "./page-model";

export class SnapshotModel {
  /** Read and agreed on, per page. */
  readonly contents = new Map<number, PageContent>();
  /** A restore or clone starts from it: it must not be deleted meanwhile. */
  inUse = 0;

  constructor(
    readonly name: string,
    private readonly model: PageModel,
    private readonly spans: ReadonlyMap<number, PageSpan>,
  ) {}

  /** Whether every one of these pages was read. */
  isKnown(pageCount: number): boolean {
    return this.contents.size === pageCount;
  }

  /** Checks what a reader of the snapshot got for a page. */
  check(reader: string, page: number, content: PageContent | string): void {
    const where = `${reader} read page ${page} of snapshot ${this.name}`;
    if (typeof content === "string") throw new Violation("torn", `${where}: ${content}`);
    const known = this.contents.get(page);
    if (known !== undefined) {
      if (sameContent(known, content)) return;
      throw new Violation(
        "snapshot",
        `${where} and got ${describeContent(content)}, where it held ${describeContent(known)} before`,
      );
    }
    const span = this.spans.get(page) ?? { oldest: 0, newest: 0 };
    if (!this.model.couldHold(page, content, span))
      throw new Violation(
        "snapshot",
        `${where} and got ${describeContent(content)}, which it did not hold between the request and its answer`,
      );
    this.contents.set(page, content);
  }
}
