import { describe, expect, test } from "bun:test";
import { formatSize } from "../../../../src/base";
import {
  type Column,
  outputStyle,
  paint,
  renderBar,
  renderList,
  renderRecord,
  renderTable,
} from "../../../../src/commands/output";

interface Disk {
  readonly name: string;
  readonly usedBytes: number;
}
const columns: readonly Column<Disk>[] = [
  { name: "name", title: "NAME", value: (disk) => disk.name },
  {
    name: "usedBytes",
    title: "USED",
    align: "right",
    value: (disk) => disk.usedBytes,
    text: (disk, style) => formatSize(disk.usedBytes, style),
  },
];
const disks: readonly Disk[] = [
  { name: "alpha", usedBytes: 2048 },
  { name: 'be"ta,1', usedBytes: 1_500_000_000 },
];
const table = outputStyle({}, false);

describe("renderList", () => {
  test("aligns a table and formats cells", () => {
    expect(renderList(columns, disks, table)).toBe(
      'NAME         USED\nalpha       2 KiB\nbe"ta,1  1.40 GiB\n',
    );
  });
  test("uses powers of 1000 with --si", () => {
    expect(renderList(columns, disks, outputStyle({ si: true }, false))).toContain("1.50 GB");
  });
  test("gives raw values in JSON", () => {
    expect(JSON.parse(renderList(columns, disks, outputStyle({ json: true })))).toEqual([...disks]);
  });
  test("quotes CSV fields that need it", () => {
    expect(renderList(columns, disks, outputStyle({ csv: true }))).toBe(
      'name,usedBytes\nalpha,2048\n"be""ta,1",1500000000\n',
    );
  });
  test("shows the header alone for an empty list, and [] in JSON", () => {
    expect(renderList(columns, [], table)).toBe("NAME  USED\n");
    expect(renderList(columns, [], outputStyle({ json: true }))).toBe("[]\n");
  });
});

test("renderRecord prints a line per field, or one object", () => {
  const disk = disks[0] as Disk;
  expect(renderRecord(columns, disk, table)).toBe("NAME: alpha\nUSED: 2 KiB\n");
  expect(JSON.parse(renderRecord(columns, disk, outputStyle({ json: true })))).toEqual({ ...disk });
});

test("renderTable counts wide characters as two cells and never lets a cell break the line", () => {
  const columnsOfTwo = [
    { title: "A", align: "left" as const },
    { title: "B", align: "left" as const },
  ];
  expect(
    renderTable(columnsOfTwo, [
      ["漢", "x"],
      ["a\nb", "y"],
    ]),
  ).toBe("A    B\n漢   x\na?b  y\n");
});

test("outputStyle refuses --json with --csv", () => {
  expect(() => outputStyle({ json: true, csv: true })).toThrow(
    "Cannot print JSON and CSV at once: give one of the two",
  );
});

test("renderBar fills by eighths and keeps its width", () => {
  expect(renderBar(0, 10, 4)).toBe("    ");
  expect(renderBar(10, 10, 4)).toBe("████");
  expect(renderBar(99, 10, 4)).toBe("████");
  expect(renderBar(5, 10, 3)).toBe("█▌ ");
  expect(renderBar(1, 0, 3)).toBe("   ");
});

test("paint colours only where the style allows it", () => {
  expect(paint("x", "bad", { color: true })).toBe("\u001b[31mx\u001b[0m");
  expect(paint("x", "bad", { color: false })).toBe("x");
});
