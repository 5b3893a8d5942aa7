import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { embedEtcdSchema } from "../../../scripts/build";

const source = readFileSync(Bun.resolveSync("etcd3/lib/connection-pool.js", import.meta.dir), "utf8");

test("embedEtcdSchema puts the schema in place of the file that etcd3 reads", () => {
  const text = embedEtcdSchema(source, `{"nested":{"a$&b":{}}}`);
  expect(text).toContain(`(0, proto_loader_1.fromJSON)({"nested":{"a$&b":{}}}, {`);
  expect(text).not.toContain("__dirname");
});

test("embedEtcdSchema refuses a source whose call it does not find, or that names the file again", () => {
  const message = "etcd3 does not load its schema the way this build knows; adapt embedEtcdSchema";
  expect(() => embedEtcdSchema(source.replace("loadSync", "load"), "{}")).toThrow(message);
  expect(() => embedEtcdSchema(`${source}\nreadFile("rpc.proto")`, "{}")).toThrow(message);
  expect(() => embedEtcdSchema("", "{}")).toThrow(message);
});
