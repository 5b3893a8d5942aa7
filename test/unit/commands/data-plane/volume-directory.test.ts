/** One device for a volume whatever its name, and never another volume's, while names change under those who use it. */
import { describe, expect, test } from "bun:test";
import type { BlockDevice } from "../../../../src/blockdev";
import {
  type ExportDescription,
  type OpenDevice,
  VolumeDirectory,
} from "../../../../src/commands/data-plane/volume-directory";

const description = (name: string, identity: string): ExportDescription => ({
  ...{ name, identity, description: "", sizeBytes: 4096, readOnly: false, preferredBlockBytes: 4096 },
});

/** Names and what they stand for can be changed; volumes open once at a time, as their lock has it. */
function bench(names: Record<string, string>, only?: readonly string[]) {
  const opened = new Set<string>();
  const state = { names, answers: true };
  const open = async (name: string): Promise<OpenDevice> => {
    const identity = state.names[name];
    if (identity === undefined) throw new Error(`no volume ${name}`);
    if (opened.has(identity)) throw new Error(`volume ${identity} is attached`);
    opened.add(identity);
    return {
      device: description(name, identity) as unknown as BlockDevice,
      failure: () => undefined,
      close: async () => void opened.delete(identity),
    };
  };
  const directory = new VolumeDirectory({
    opener: { openVolume: open, openSnapshot: (volume, snapshot) => open(`${volume}@${snapshot}`) },
    catalog: {
      list: async () => Object.entries(state.names).map(([name, identity]) => description(name, identity)),
      describe: async (name) => {
        if (!state.answers) throw new Error("metadata does not answer");
        const identity = state.names[name];
        return identity === undefined ? undefined : description(name, identity);
      },
    },
    only,
    onEvent: () => undefined,
  });
  const identityOf = async (name: string) => {
    const taken = await directory.take(name);
    return (
      taken && {
        identity: (taken.open.device as unknown as ExportDescription).identity,
        release: taken.release,
      }
    );
  };
  return { directory, opened, state, take: identityOf };
}

describe("VolumeDirectory", () => {
  test("clients by the old and by the new name of a renamed volume share it", async () => {
    const { opened, state, take, directory } = bench({ data: "7" });
    const first = await take("data");
    state.names = { renamed: "7" };
    const second = await take("renamed");
    const third = await take("data");
    expect([first, second, third].map((one) => one?.identity)).toEqual(["7", "7", "7"]);
    expect(directory.openDevices().map(({ users }) => users)).toEqual([3]);
    await first?.release();
    await second?.release();
    expect([...opened]).toEqual(["7"]);
    await third?.release();
    expect([...opened]).toEqual([]);
    expect(await take("data")).toBeUndefined();
  });

  test("a new volume by the old name of a renamed one is that new volume", async () => {
    const { state, take } = bench({ data: "7" });
    await take("data");
    state.names = { renamed: "7", data: "8" };
    expect((await take("data"))?.identity).toBe("8");
    expect((await take("renamed"))?.identity).toBe("7");
  });

  test("what is open stays reachable while metadata does not answer, what is not is refused", async () => {
    const { state, take } = bench({ data: "7", other: "8" });
    await take("data");
    state.answers = false;
    expect((await take("data"))?.identity).toBe("7");
    await expect(take("other")).rejects.toThrow("does not answer");
  });

  test("keepOpen says what the opener says of a volume that does not exist, and holds nothing of it", async () => {
    const { directory } = bench({});
    await expect(directory.keepOpen("no")).rejects.toThrow("no volume no");
    expect(directory.openDevices()).toEqual([]);
    await directory.close();
  });
});
