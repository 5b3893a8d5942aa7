/** What the role in a client's certificate lets it write. */
import { expect, test } from "bun:test";
import type { Operation } from "../../../../src/meta";
import { refusalOf, type Role, roleOf } from "../../../../src/commands/daemon/roles";

const put = (key: string): Operation => ({ kind: "put", key, value: new Uint8Array() });
const drop = (prefix: string): Operation => ({ kind: "delete-prefix", prefix });
const RING = "change ring or settings";
const PEERS = "register or change peers";

test.each<[Operation, string | undefined, string | undefined]>([
  [put("torus/cluster/ring"), RING, RING],
  [put("torus/cluster/settings"), RING, RING],
  [put("torus/rings/0000000002"), RING, RING],
  [{ kind: "delete", key: "torus/cluster/ring" }, RING, RING],
  [put("torus/cluster/peers/x"), undefined, PEERS],
  [put("torus/cluster/live/x"), undefined, PEERS],
  [put("torus/volumes/0000000000001/lock"), undefined, undefined],
  [drop("torus/volumes/0000000000001/"), undefined, undefined],
  [put("torus/cluster/upkeep"), RING, RING],
  [put("torus/access/0000000000001"), "change access lists", "change access lists"],
  [drop("torus/access/"), "change access lists", "change access lists"],
  [put("torus/something/new"), RING, RING],
  [drop("torus/volumes/"), "delete what many volumes have", "delete what many volumes have"],
  [drop("torus/names/"), "delete what many volumes have", "delete what many volumes have"],
  // A prefix that holds what is closed is closed too.
  [drop("torus/"), RING, RING],
  [drop("torus/cluster/"), RING, RING],
  [drop("torus/rings/00"), RING, RING],
  [drop(""), "write , which is not of torus", "write , which is not of torus"],
  [put("other/key"), "write other/key, which is not of torus", "write other/key, which is not of torus"],
])("refusalOf %p: a peer %p, a client %p", (operation, peer, client) => {
  const transaction = { compares: [], operations: [put("torus/names/a"), operation] };
  expect(refusalOf("peer", transaction)).toBe(peer);
  expect(refusalOf("client", transaction)).toBe(client);
  expect(refusalOf("admin", transaction)).toBeUndefined();
});

test.each<[string, Role]>([
  ["torus-admin", "admin"],
  ["torus-peer", "peer"],
  ["torus-client", "client"],
  ["Torus-Admin", "client"],
  ["torus-admin ", "client"],
  ["", "client"],
])("roleOf %p is %p", (organization, role) => {
  expect(roleOf(organization)).toBe(role);
});
