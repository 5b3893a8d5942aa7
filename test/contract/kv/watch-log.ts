/** Records what a watch delivers, checks that revisions only grow, and waits for conditions on it. */
import { expect } from "bun:test";
import type { KeyValue, WatchEvent, WatchListener } from "../../../src/meta";

const WAIT_MS_MAX = 20_000;

export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + WAIT_MS_MAX;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`waited in vain for ${what}`);
    await Bun.sleep(5);
  }
}

export class WatchLog implements WatchListener {
  readonly revisions: number[] = [];
  readonly events: WatchEvent[] = [];
  readonly groups: (readonly WatchEvent[])[] = [];
  /** The state that snapshots and events add up to. */
  state = new Map<string, string>();
  snapshotCount = 0;
  connected = false;
  lastRevision = 0;

  onEvents(events: readonly WatchEvent[], revision: number): void {
    expect(revision).toBeGreaterThan(this.lastRevision);
    this.lastRevision = revision;
    this.revisions.push(revision);
    this.groups.push(events);
    for (const event of events) {
      this.events.push(event);
      if (event.kind === "put") {
        expect(event.entry.modRevision).toBe(revision);
        this.state.set(event.entry.key, Buffer.from(event.entry.value).toString());
      } else {
        expect(event.modRevision).toBe(revision);
        expect(this.state.delete(event.key)).toBe(true);
      }
    }
  }

  onSnapshot(entries: readonly KeyValue[], revision: number): void {
    this.snapshotCount++;
    this.lastRevision = revision;
    this.state = new Map(entries.map((entry) => [entry.key, Buffer.from(entry.value).toString()]));
  }

  onConnection(connected: boolean): void {
    this.connected = connected;
  }
}
