/**
 * The kernel's nbd driver by generic netlink (linux/nbd-netlink.h): connects a device to sockets that are already in
 * transmission, gives a device whose sockets died new ones, and disconnects it. No call here waits for I/O of the
 * device, so the process that serves it may make them.
 */
import { KernelError } from "./errors";
import { GenericNetlink } from "./generic-netlink";
import { AttributeWriter, type NetlinkMessage, numberOf } from "./netlink-message";

const FAMILY = "nbd";
const Command = { connect: 1, disconnect: 2, reconfigure: 3 } as const;
const Attribute = {
  index: 1,
  sizeBytes: 2,
  blockSizeBytes: 3,
  timeout: 4,
  serverFlags: 5,
  clientFlags: 6,
  sockets: 7,
  deadConnectionTimeout: 8,
  backendIdentifier: 10,
} as const;
const SOCKET_ITEM = 1;
const SOCKET_DESCRIPTOR = 1;

const [EPERM, ENODEV, EINVAL, EBUSY, EACCES, ENOENT] = [1, 19, 22, 16, 13, 2] as const;

export interface NbdConnect {
  /** Undefined: the first free one. */
  readonly index: number | undefined;
  readonly sizeBytes: number;
  readonly blockSizeBytes: number;
  /** NBD transmission flags. */
  readonly serverFlags: number;
  readonly sockets: readonly number[];
  /** Until a request without an answer makes its connection dead; 0: never. */
  readonly requestTimeoutS: number;
  /** How long requests wait for new sockets once all are dead. */
  readonly deadConnectionTimeoutS: number;
  /** Names the backend in /sys, and must be repeated to reconfigure. */
  readonly identifier: string;
}

export class NbdNetlink {
  private constructor(
    private readonly netlink: GenericNetlink,
    private readonly family: number,
  ) {}

  /** Undefined when the kernel's nbd driver is not loaded (or has no netlink). */
  static async open(): Promise<NbdNetlink | undefined> {
    const netlink = GenericNetlink.open();
    try {
      const family = await netlink.family(FAMILY);
      if (family !== undefined) return new NbdNetlink(netlink, family);
    } catch (error) {
      netlink.close();
      throw error;
    }
    netlink.close();
    return undefined;
  }

  /** Answers the index of the device that was connected. */
  async connect(connect: NbdConnect): Promise<number> {
    const attributes = new AttributeWriter();
    if (connect.index !== undefined) attributes.u32(Attribute.index, connect.index);
    attributes
      .u64(Attribute.sizeBytes, connect.sizeBytes)
      .u64(Attribute.blockSizeBytes, connect.blockSizeBytes)
      .u64(Attribute.serverFlags, connect.serverFlags)
      .u64(Attribute.clientFlags, 0)
      .u64(Attribute.timeout, connect.requestTimeoutS)
      .u64(Attribute.deadConnectionTimeout, connect.deadConnectionTimeoutS)
      .text(Attribute.backendIdentifier, connect.identifier)
      .nested(Attribute.sockets, socketList(connect.sockets));
    const what = connect.index === undefined ? "a free device" : `/dev/nbd${connect.index}`;
    const reply = await this.#request(`attach ${what}`, Command.connect, attributes);
    const index = numberOf(reply?.attributes.get(Attribute.index)) ?? connect.index;
    if (index === undefined)
      throw new KernelError("refused", "Cannot attach a free device: the kernel did not say which it is");
    return index;
  }

  /** New sockets for a device whose old ones are dead; it may have grown meanwhile. */
  async reconfigure(
    index: number,
    sockets: readonly number[],
    sizeBytes: number,
    identifier: string,
  ): Promise<void> {
    const attributes = new AttributeWriter()
      .u32(Attribute.index, index)
      .u64(Attribute.sizeBytes, sizeBytes)
      .text(Attribute.backendIdentifier, identifier)
      .nested(Attribute.sockets, socketList(sockets));
    await this.#request(`take over /dev/nbd${index}`, Command.reconfigure, attributes);
  }

  /** Tells the kernel a new size, mounted or not. */
  async resize(index: number, sizeBytes: number, identifier: string): Promise<void> {
    const attributes = new AttributeWriter()
      .u32(Attribute.index, index)
      .u64(Attribute.sizeBytes, sizeBytes)
      .text(Attribute.backendIdentifier, identifier);
    await this.#request(`resize /dev/nbd${index}`, Command.reconfigure, attributes);
  }

  async disconnect(index: number): Promise<void> {
    await this.#request(
      `detach /dev/nbd${index}`,
      Command.disconnect,
      new AttributeWriter().u32(Attribute.index, index),
    );
  }

  close(): void {
    this.netlink.close();
  }

  async #request(
    action: string,
    command: number,
    attributes: AttributeWriter,
  ): Promise<NetlinkMessage | undefined> {
    const { errno, reply } = await this.netlink.request(this.family, command, attributes.finish());
    if (errno !== 0) throw refusal(action, errno);
    return reply;
  }
}

function socketList(sockets: readonly number[]): AttributeWriter {
  const list = new AttributeWriter();
  for (const socket of sockets)
    list.nested(SOCKET_ITEM, new AttributeWriter().u32(SOCKET_DESCRIPTOR, socket));
  return list;
}

function refusal(action: string, errno: number): KernelError {
  switch (errno) {
    case EPERM:
    case EACCES:
      return new KernelError("not-permitted", `Cannot ${action}: run it as root`, { errno });
    case EBUSY:
      return new KernelError("busy", `Cannot ${action}: it is attached to something else`, { errno });
    case ENOENT:
    case ENODEV:
    case EINVAL:
      return new KernelError(
        "not-attached",
        `Cannot ${action}: there is no such device, or it is not attached`,
        { errno },
      );
    default:
      return new KernelError("refused", `Cannot ${action}: the kernel answered errno ${errno}`, { errno });
  }
}
