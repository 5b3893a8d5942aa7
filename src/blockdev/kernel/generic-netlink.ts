/**
 * A generic netlink socket of one family. The kernel answers inside send, so a request is a send and a look at what
 * came; should it answer later, the socket is looked at again after a moment, until the deadline: this thread is
 * never blocked, as what the kernel waits for may be served by this very process.
 */
import { C, libc, must, nativeBuffer } from "../../base/io";
import { KernelError } from "./errors";
import {
  AttributeWriter,
  encodeGenericMessage,
  type NetlinkMessage,
  NLMSG_ERROR,
  numberOf,
  parseMessages,
} from "./netlink-message";

const AF_NETLINK = 16;
const SOCK_RAW = 3;
const NETLINK_GENERIC = 16;
const SOCKADDR_NL_BYTES = 12;
const FAMILY_CONTROLLER = 0x10;
const CTRL_CMD_GETFAMILY = 3;
const CTRL_ATTR_FAMILY_ID = 1;
const CTRL_ATTR_FAMILY_NAME = 2;
const RECEIVE_BYTES = 64 * 1024;
const ANSWER_MS_MAX = 30_000;
const LOOK_AGAIN_MS = 2;
export const ENOENT = 2;

export class GenericNetlink {
  readonly #socket: number;
  readonly #buffer = nativeBuffer(RECEIVE_BYTES);
  #sequence = 0;
  #closed = false;

  private constructor(socket: number) {
    this.#socket = socket;
  }

  static open(): GenericNetlink {
    const socket = must(
      "open a netlink socket",
      libc.socket(AF_NETLINK, SOCK_RAW | C.SOCK_CLOEXEC, NETLINK_GENERIC),
    );
    const address = new Uint8Array(SOCKADDR_NL_BYTES);
    address[0] = AF_NETLINK;
    const bound = libc.bind(socket, address);
    if (bound < 0) libc.close(socket);
    must("bind a netlink socket", bound);
    return new GenericNetlink(socket);
  }

  /** The family's number, or undefined when the kernel does not have it. */
  async family(name: string): Promise<number | undefined> {
    const attributes = new AttributeWriter().text(CTRL_ATTR_FAMILY_NAME, name).finish();
    const { errno, reply } = await this.request(FAMILY_CONTROLLER, CTRL_CMD_GETFAMILY, attributes);
    if (errno === ENOENT) return undefined;
    const family = numberOf(reply?.attributes.get(CTRL_ATTR_FAMILY_ID));
    if (errno !== 0 || family === undefined)
      throw new KernelError("refused", `Cannot find netlink family ${name}: errno ${errno}`, { errno });
    return family;
  }

  /** The reply, if any, and the errno that ended it (0: done). */
  async request(
    family: number,
    command: number,
    attributes: Uint8Array,
  ): Promise<{ readonly errno: number; readonly reply: NetlinkMessage | undefined }> {
    const sequence = ++this.#sequence;
    const message = encodeGenericMessage(family, sequence, command, attributes);
    this.#buffer.bytes.set(message);
    must("send a netlink request", libc.send(this.#socket, this.#buffer.address, message.length, 0));
    let reply: NetlinkMessage | undefined;
    for (const deadlineMs = performance.now() + ANSWER_MS_MAX; performance.now() < deadlineMs; ) {
      const received = libc.recv(this.#socket, this.#buffer.address, RECEIVE_BYTES, C.MSG_DONTWAIT);
      if (received === -C.EAGAIN || received === -C.EINTR) {
        await Bun.sleep(LOOK_AGAIN_MS);
        continue;
      }
      must("receive a netlink answer", received);
      for (const part of parseMessages(this.#buffer.bytes.slice(0, received)) ?? []) {
        if (part.sequence !== sequence) continue;
        if (part.type === NLMSG_ERROR) return { errno: part.errno, reply };
        reply = part;
      }
    }
    throw new KernelError("timed-out", `Cannot go on: the kernel did not answer in ${ANSWER_MS_MAX} ms`);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    libc.close(this.#socket);
  }
}
