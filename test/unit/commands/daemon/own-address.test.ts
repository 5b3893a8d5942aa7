import { expect, test } from "bun:test";
import { isOwnAddress } from "../../../../src/commands/daemon";

test.each([
  ["http://127.0.0.1:4321", "127.0.0.1", 4321, true],
  ["http://localhost:4321", "127.0.0.1", 4321, true],
  ["http://[::1]:4321", "0.0.0.0", 4321, true],
  ["https://10.0.0.1:4321", "10.0.0.1", 4321, true],
  ["http://127.0.0.1:4322", "127.0.0.1", 4321, false],
  ["http://10.0.0.2:4321", "127.0.0.1", 4321, false],
  ["http://127.0.0.1:4321", "10.0.0.1", 4321, false],
  ["etcd://127.0.0.1:4321,127.0.0.1:4322", "127.0.0.1", 4321, false],
  ["sqlite:torus-data/meta.db", "127.0.0.1", 4321, false],
])("isOwnAddress(%s) of a daemon on %s port %i is %p", (url, host, port, expected) => {
  expect(isOwnAddress(url, { host, port })).toBe(expected);
});
