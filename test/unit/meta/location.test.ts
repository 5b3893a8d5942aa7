/** parseMetaUrl: what it takes, what it refuses in which words, and that it never repeats a password. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { isMetaError, parseMetaUrl, shownMetaUrl } from "../../../src/meta";

describe("parseMetaUrl", () => {
  const good: [string, object][] = [
    ["memory:", { kind: "memory" }],
    ["sqlite:/var/lib/torus/meta.db", { kind: "sqlite", path: "/var/lib/torus/meta.db" }],
    ["sqlite:relative.db", { kind: "sqlite", path: "relative.db" }],
    ["sqlite:///abs.db", { kind: "sqlite", path: "/abs.db" }],
    ["http://h:4321", { kind: "remote", baseUrl: "http://h:4321" }],
    ["http://h:4321/", { kind: "remote", baseUrl: "http://h:4321" }],
    ["http://h", { kind: "remote", baseUrl: "http://h:4321" }],
    ["https://[::1]:5", { kind: "remote", baseUrl: "https://[::1]:5" }],
    ["etcd://h", { kind: "etcd", endpoints: ["h:2379"], tls: false }],
    ["etcd://h1:1,h2,[::1]:3/", { kind: "etcd", endpoints: ["h1:1", "h2:2379", "[::1]:3"], tls: false }],
    ["etcds://h:1", { kind: "etcd", endpoints: ["h:1"], tls: true }],
    [
      "etcd://root:p%40ss:word@h:1",
      { kind: "etcd", endpoints: ["h:1"], tls: false, user: "root", password: "p@ss:word" },
    ],
    ["etcd://root@h", { kind: "etcd", endpoints: ["h:2379"], tls: false, user: "root" }],
  ];
  for (const [url, parsed] of good)
    test(`reads ${url}`, () => {
      expect(parseMetaUrl(url) as object).toEqual(parsed);
    });

  const bad: [string, string][] = [
    ["", "it has no scheme"],
    ["h:2379", 'unknown scheme "h"'],
    ["ftp://h", 'unknown scheme "ftp"'],
    ["memory:x", "memory: takes nothing more"],
    ["sqlite:", "the path is missing"],
    ["etcd:h", "// is missing"],
    ["etcd://", '"" is no HOST:PORT'],
    ["etcd://h:0", '"h:0" is no HOST:PORT'],
    ["etcd://h:70000", '"h:70000" is no HOST:PORT'],
    ["etcd://h,h", "an endpoint is named twice"],
    ["etcd://h/path", '"h/path" is no HOST:PORT'],
    ["http://h/path", "nothing may follow the port"],
    ["http://u:p@h", "user and password are not used here"],
    ["http://", "it is no URL"],
  ];
  for (const [url, reason] of bad)
    test(`refuses ${JSON.stringify(url)}: ${reason}`, () => {
      expect(() => parseMetaUrl(url)).toThrow(`: ${reason}; give etcd://HOST:PORT`);
    });

  test("never repeats a password", () => {
    expect(() => parseMetaUrl("etcd://root:secret@h:0")).toThrow(
      'Cannot use metadata location "etcd://root:***@h:0"',
    );
    for (const url of [
      "etcd://root:sec/ret@h:0",
      "etcd://root:s@cret@h:0",
      "etcd://root:%zzsecret@h",
      "etcdx://root:sec/ret@h",
      "root:secret@h",
      "http://root:secret@h",
    ])
      expect(() => parseMetaUrl(url)).toThrow(/Cannot use metadata location "[a-z:/]*root:\*\*\*@h/);
  });

  test("shows what holds no password as it is", () => {
    for (const url of [
      "etcd://h:1,h2:2",
      "etcd://root@h:1",
      "http://h:1",
      "sqlite:/a:b@c/meta.db",
      "memory:",
    ])
      expect(shownMetaUrl(url)).toBe(url);
    expect(shownMetaUrl("etcds://root:secret@h:1,h2:2")).toBe("etcds://root:***@h:1,h2:2");
  });

  test("of anything gives a location or a usage error", () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.string(), fc.tuple(fc.constantFrom("etcd://", "http://", "sqlite:"), fc.string())),
        (text) => {
          try {
            parseMetaUrl(Array.isArray(text) ? text.join("") : text);
          } catch (error) {
            if (!isMetaError(error, "bad-url")) throw error;
            expect(error.exitCode).toBe(2);
          }
        },
      ),
    );
  });
});
