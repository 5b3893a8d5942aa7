/**
 * The bytes that simulated clients write. Every 512-byte sector carries the id of the write it came from and the
 * place it was written to, in every word, so that a read says exactly what it got: which writes, torn or not,
 * from the right place or another's. Id 0 is a sector of zeroes.
 */
export const PAGE_BYTES = 4096;
export const SECTOR_BYTES = 512;
export const SECTORS_PER_PAGE = PAGE_BYTES / SECTOR_BYTES;
const WORDS_PER_SECTOR = SECTOR_BYTES / 4;

/** The writes whose sectors a page holds, in order. */
export type PageContent = readonly number[];
export const ZERO_PAGE: PageContent = new Array<number>(SECTORS_PER_PAGE).fill(0);

function wordAt(writeId: number, page: number, sector: number, word: number): number {
  return Math.imul(writeId ^ Math.imul(page * SECTORS_PER_PAGE + sector + 1, 0x9e3779b1), 2 * word + 1) | 0;
}

/** Fills sectors of one page. `words` sees the buffer; `firstWord` is where the first of these sectors begins. */
export function fillSectors(
  words: Int32Array,
  firstWord: number,
  page: number,
  firstSector: number,
  sectorCount: number,
  writeId: number,
): void {
  let at = firstWord;
  for (let sector = firstSector; sector < firstSector + sectorCount; sector += 1) {
    words[at] = writeId;
    for (let word = 1; word < WORDS_PER_SECTOR; word += 1)
      words[at + word] = wordAt(writeId, page, sector, word);
    at += WORDS_PER_SECTOR;
  }
}

/** What one page's bytes are, or what is wrong with them. */
export function readContent(words: Int32Array, firstWord: number, page: number): PageContent | string {
  const content: number[] = [];
  for (let sector = 0; sector < SECTORS_PER_PAGE; sector += 1) {
    const at = firstWord + sector * WORDS_PER_SECTOR;
    const writeId = words[at] as number;
    for (let word = 1; word < WORDS_PER_SECTOR; word += 1) {
      const expected = writeId === 0 ? 0 : wordAt(writeId, page, sector, word);
      if (words[at + word] !== expected)
        return `sector ${sector} claims write ${writeId}, but word ${word} does not belong to it (or to another place)`;
    }
    content.push(writeId);
  }
  return content;
}

export function sameContent(a: PageContent, b: PageContent): boolean {
  return a.every((writeId, sector) => writeId === b[sector]);
}

export function describeContent(content: PageContent): string {
  const [first] = content;
  return content.every((writeId) => writeId === first)
    ? `#${first}`
    : content.map((id) => `#${id}`).join(",");
}
