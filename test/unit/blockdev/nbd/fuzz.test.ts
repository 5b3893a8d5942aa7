import { test } from "bun:test";
import { fuzzNbd } from "../../../fuzz/nbd";

test("NbdServer survives what the fuzzer sends", async () => {
  await fuzzNbd(3000, 20_260_101);
}, 60_000);
