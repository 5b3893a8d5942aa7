/** What an orchestrator is told of errors that are not the driver's own. */
import { expect, test } from "bun:test";
import { TorusError } from "../../../../src/base";
import { toCsiError } from "../../../../src/commands/blk/csi-volumes";

test("toCsiError: what may pass is unavailable, what will not is internal", () => {
  const passing = new TorusError("no-peer", "Cannot open it: no peer answers", { retryable: true });
  expect(toCsiError(passing)).toMatchObject({ code: "unavailable", message: passing.message });
  const lasting = new TorusError("broken", "Cannot open it: its map is damaged");
  expect(toCsiError(lasting)).toMatchObject({ code: "internal", message: lasting.message });
});
