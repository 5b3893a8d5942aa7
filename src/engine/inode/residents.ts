/**
 * The nodes in memory, their bytes, and which of them to let go: a clock hand over a dense list, with a second
 * chance for nodes touched since it passed. It only chooses; the tree forgets.
 */
import type { TreeNode } from "./nodes";
import type { Residency } from "./tree";

/** Hand steps per sweep, so that evicting is bounded work however many nodes cannot go. */
const SWEEP_STEPS_MAX = 256;

export class Residents implements Residency {
  bytes = 0;
  private readonly nodes: TreeNode[] = [];
  private hand = 0;

  enter(node: TreeNode): void {
    node.residentIndex = this.nodes.length;
    this.nodes.push(node);
    this.bytes += node.memoryBytes;
  }

  leave(node: TreeNode): void {
    const last = this.nodes.pop() as TreeNode;
    if (last !== node) {
      this.nodes[node.residentIndex] = last;
      last.residentIndex = node.residentIndex;
    }
    node.residentIndex = -1;
    this.bytes -= node.memoryBytes;
  }

  replace(original: TreeNode, copy: TreeNode): void {
    copy.residentIndex = original.residentIndex;
    copy.usedAt = original.usedAt;
    this.nodes[copy.residentIndex] = copy;
    original.residentIndex = -1;
  }

  /** Offers nodes to `evict`, which says whether it let one go, until the bytes are at most `bytesMax`. */
  sweep(bytesMax: number, evict: (node: TreeNode) => boolean): void {
    for (let step = 0; step < SWEEP_STEPS_MAX && this.bytes > bytesMax && this.nodes.length > 0; step += 1) {
      if (this.hand >= this.nodes.length) this.hand = 0;
      const node = this.nodes[this.hand] as TreeNode;
      if (node.referenced) {
        node.referenced = false;
        this.hand += 1;
      } else if (!evict(node)) this.hand += 1;
    }
  }
}
