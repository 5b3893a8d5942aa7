/** What systemd hears, on a socket of our own in its place. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { libc, nativeBuffer } from "../../../../src/base/io";
import { notifyAddress, ServiceNotifier, watchdogIntervalMs } from "../../../../src/commands/daemon/notify";

const folder = mkdtempSync(join(tmpdir(), "torus-notify-"));
afterAll(() => rmSync(folder, { recursive: true }));
const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const MSG_DONTWAIT = 0x40;

function listen(name: string) {
  const socket = libc.socket(AF_UNIX, SOCK_DGRAM, 0);
  expect(libc.bind(socket, notifyAddress(name) as Uint8Array)).toBe(0);
  const buffer = nativeBuffer(4096);
  return {
    heard: (): string[] => {
      const messages: string[] = [];
      for (;;) {
        const count = libc.recv(socket, buffer.address, 4096, MSG_DONTWAIT);
        if (count < 0) return messages;
        messages.push(Buffer.from(buffer.bytes.subarray(0, count)).toString());
      }
    },
    close: () => libc.close(socket),
  };
}

const never = (message: string) => {
  throw new Error(message);
};

for (const name of [join(folder, "notify.sock"), `@torus-notify-test-${process.pid}`])
  test(`ServiceNotifier speaks to ${name.startsWith("@") ? "an abstract socket" : "a path"}`, () => {
    const systemd = listen(name);
    const notifier = new ServiceNotifier({ NOTIFY_SOCKET: name }, never);
    notifier.ready("Serving\nwell");
    notifier.status("Serving; well");
    notifier.status("Full");
    notifier.stopping();
    expect(systemd.heard()).toEqual([
      "READY=1\nSTATUS=Serving; well",
      "STATUS=Full",
      "STOPPING=1\nSTATUS=Stopping",
    ]);
    notifier.reloading();
    notifier.reloaded();
    const [reloading, reloaded] = systemd.heard();
    expect(reloading).toMatch(/^RELOADING=1\nMONOTONIC_USEC=\d{6,}$/);
    expect(reloaded).toBe("READY=1");
    notifier.close();
    systemd.close();
  });

test("ServiceNotifier without a socket says nothing, and with a bad one complains once", () => {
  const complaints: string[] = [];
  const silent = new ServiceNotifier({}, never);
  silent.ready("x");
  silent.close();
  const gone = new ServiceNotifier({ NOTIFY_SOCKET: join(folder, "none") }, (message) =>
    complaints.push(message),
  );
  gone.ready("x");
  gone.status("y");
  expect(complaints).toEqual(["Cannot tell systemd how this daemon is: ENOENT"]);
  const relative = new ServiceNotifier({ NOTIFY_SOCKET: "relative" }, (message) => complaints.push(message));
  relative.ready("x");
  expect(complaints[1]).toBe("Cannot tell systemd how this daemon is: it is no socket: relative");
});

test("ServiceNotifier says that it lives only while the data path answers", async () => {
  const name = join(folder, "watchdog.sock");
  const systemd = listen(name);
  const problems: string[] = [];
  const notifier = new ServiceNotifier({ NOTIFY_SOCKET: name, WATCHDOG_USEC: "30000000" }, (each) =>
    problems.push(each),
  );
  const scheduled: [number, () => void][] = [];
  const clock = {
    nowMs: () => 0,
    wallMs: () => 0,
    schedule: (delayMs: number, callback: () => void) => {
      scheduled.push([delayMs, callback]);
      return { cancel: () => undefined };
    },
  };
  let alive = true;
  notifier.startWatchdog(clock, () => (alive ? Promise.resolve() : Promise.reject(new Error("it hangs"))));
  await Promise.resolve();
  expect(systemd.heard()).toEqual(["WATCHDOG=1"]);
  expect(scheduled[0]?.[0]).toBe(10_000);
  alive = false;
  scheduled[0]?.[1]();
  await Promise.resolve();
  await Promise.resolve();
  expect(systemd.heard()).toEqual([]);
  expect(problems).toEqual(["The data path does not answer, so systemd is not told that it lives: it hangs"]);
  notifier.close();
  systemd.close();
});

test.each([
  [{ WATCHDOG_USEC: "60000000" }, 20_000],
  [{ WATCHDOG_USEC: "60000000", WATCHDOG_PID: "7" }, 20_000],
  [{ WATCHDOG_USEC: "60000000", WATCHDOG_PID: "8" }, undefined],
  [{}, undefined],
  [{ WATCHDOG_USEC: "nonsense" }, undefined],
])("watchdogIntervalMs of %p is %p", (environment, expected) => {
  expect(watchdogIntervalMs(environment, 7)).toBe(expected);
});
