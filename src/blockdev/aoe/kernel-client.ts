/** The aoe driver of this machine's own kernel, as a client: forgetting devices that are gone. */
import { writeFileSync } from "node:fs";
import { AoeError } from "./errors";

const FLUSH_DEVICE = "/dev/etherd/flush";

/** Makes the driver forget a device that is down, such as `e1.1`; "all" forgets even those that are up but unused. */
export function flushKernelClient(device: string): void {
  if (device !== "all" && !/^e\d{1,5}\.\d{1,3}$/.test(device))
    throw new AoeError("bad-address", `Cannot flush "${device}": write it as e1.1, or all`, { exitCode: 2 });
  try {
    writeFileSync(FLUSH_DEVICE, device, { flag: "r+" });
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === "ENOENT")
      throw new AoeError(
        "not-supported",
        `Cannot flush "${device}": there is no ${FLUSH_DEVICE}; load the aoe driver (modprobe aoe)`,
        { cause: error },
      );
    throw new AoeError("not-permitted", `Cannot flush "${device}" by ${FLUSH_DEVICE}: ${code}`, {
      cause: error,
    });
  }
}
