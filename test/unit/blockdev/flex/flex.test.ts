import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  type FlexHost,
  type FlexOptions,
  parseFlexOptions,
  runFlexVerb,
} from "../../../../src/blockdev/flex";
import { wordsFor } from "../../../../src/commands/root";

class RecordingHost implements FlexHost {
  readonly calls: unknown[] = [];

  async attach(options: FlexOptions): Promise<string> {
    this.calls.push(["attach", options]);
    if (options.volume === "broken") throw new Error("a bug");
    return "/dev/nbd7";
  }

  async detach(device: string): Promise<void> {
    this.calls.push(["detach", device]);
  }

  async mount(folder: string, device: string, options: FlexOptions): Promise<void> {
    this.calls.push(["mount", folder, device, options.fileSystem]);
  }

  async unmount(folder: string): Promise<void> {
    this.calls.push(["unmount", folder]);
  }
}

async function run(verb: string, ...words: string[]) {
  const host = new RecordingHost();
  return { answer: await runFlexVerb(verb, words, host), calls: host.calls };
}

describe("runFlexVerb", () => {
  const options = '{"volume":"data","kubernetes.io/fsType":"xfs"}';

  test("answers each verb as the kubelet reads it", async () => {
    expect((await run("init")).answer).toEqual({ status: "Success", capabilities: { attach: true } });
    expect((await run("attach", options, "node-1")).answer).toEqual({
      status: "Success",
      device: "/dev/nbd7",
    });
    expect(await run("mount", "/mnt/x", "/dev/nbd7", options)).toEqual({
      answer: { status: "Success" },
      calls: [["mount", "/mnt/x", "/dev/nbd7", "xfs"]],
    });
    expect((await run("mountdevice", "/mnt/x", "/dev/nbd7", options)).calls).toHaveLength(1);
    expect((await run("unmount", "/mnt/x")).calls).toEqual([["unmount", "/mnt/x"]]);
    expect((await run("detach", "/dev/nbd7", "node-1")).calls).toEqual([["detach", "/dev/nbd7"]]);
  });

  test("answers failures and unknown verbs too, and never throws", async () => {
    expect((await run("waitforattach")).answer.status).toBe("Not supported");
    expect((await run("attach")).answer).toEqual({
      status: "Failure",
      message: "Cannot attach: argument 1 is missing",
    });
    expect((await run("attach", '{"volume":"broken"}')).answer).toEqual({
      status: "Failure",
      message: "Internal error: a bug",
    });
    await fc.assert(
      fc.asyncProperty(fc.string(), fc.array(fc.oneof(fc.string(), fc.json())), async (verb, words) => {
        const { answer } = await run(verb, ...words);
        expect(["Success", "Failure", "Not supported"]).toContain(answer.status);
      }),
    );
  });
});

describe("parseFlexOptions", () => {
  test("takes volume, file system, read-only and where the metadata is", () => {
    expect(parseFlexOptions('{"volume":"data"}')).toEqual({
      volume: "data",
      fileSystem: "ext4",
      readOnly: false,
      meta: undefined,
    });
    expect(
      parseFlexOptions('{"volume":"data","etcd":"h:2379","kubernetes.io/readwrite":"ro"}'),
    ).toMatchObject({ readOnly: true, meta: "etcd://h:2379" });
  });

  test("refuses what is no JSON object, has no volume, or would be taken for an option", () => {
    for (const [text, message] of [
      ["no", "Cannot read the volume's options: they are not JSON"],
      ["[]", "Cannot read the volume's options: they are no JSON object"],
      ["{}", 'Cannot attach: option "volume" does not name a volume'],
      ['{"volume":"--create"}', 'Cannot attach: option "volume" does not name a volume'],
      ['{"volume":3}', 'Cannot use option "volume": it is no text'],
    ] as const)
      expect(() => parseFlexOptions(text)).toThrow(message);
  });
});

describe("wordsFor", () => {
  test("called torus-flex, the words are verbs", () => {
    expect(wordsFor("/plugins/torus~torus-flex/torus-flex", ["init"])).toEqual(["blk", "flex", "init"]);
  });
});
