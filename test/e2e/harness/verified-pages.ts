/**
 * Looks at pages that fio wrote with `verify=md5`, as they are in a snapshot: each is whole, lies where fio put it, and
 * is not older than in the snapshot before. What fio writes into a page: a magic, where it belongs, when it was made,
 * and the MD5 of all that follows.
 */
import { createHash } from "node:crypto";

const PAGE_BYTES = 4096;
const MAGIC = 0xacca;
const OFFSET_AT = 16;
const SECONDS_AT = 24;
const NANOSECONDS_AT = 28;
const DIGEST_AT = 40;
const BODY_AT = 56;

const ZEROES = Buffer.alloc(PAGE_BYTES);

function madeAt(page: Buffer): number {
  return page.readUInt32LE(SECONDS_AT) * 1e9 + page.readUInt32LE(NANOSECONDS_AT);
}

/**
 * `image` and `before`: the same range of two snapshots, the older one second; `offsetBytes`: where it begins in the
 * volume. Returns how many pages differ. Throws for a page that fio did not write so, or that went back in time.
 */
export function checkVerifiedPages(image: Buffer, before: Buffer, offsetBytes: number): number {
  let changed = 0;
  for (let at = 0; at < image.length; at += PAGE_BYTES) {
    const page = image.subarray(at, at + PAGE_BYTES);
    const older = before.subarray(at, at + PAGE_BYTES);
    if (page.equals(older)) continue;
    changed++;
    const where = `page at ${offsetBytes + at}`;
    if (page.readUInt16LE(0) !== MAGIC)
      throw new Error(page.equals(ZEROES) ? `The ${where} is zero again` : `The ${where} is none of fio's`);
    const belongs = Number(page.readBigUInt64LE(OFFSET_AT));
    if (belongs !== offsetBytes + at) throw new Error(`The ${where} belongs at ${belongs}`);
    const digest = createHash("md5").update(page.subarray(BODY_AT)).digest();
    if (!digest.equals(page.subarray(DIGEST_AT, BODY_AT))) throw new Error(`The ${where} is torn`);
    if (!older.equals(ZEROES) && madeAt(page) <= madeAt(older))
      throw new Error(`The ${where} is older than in the snapshot before`);
  }
  return changed;
}
