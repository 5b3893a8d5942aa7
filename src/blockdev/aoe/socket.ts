/**
 * Raw Ethernet frames of one interface, by an AF_PACKET socket that a thread's EventLoop watches. The socket hears
 * only frames of AoE's type. Frames are received into a bounded set of buffers; while all are in use none is read,
 * and the kernel keeps or drops what comes, as a switch would. A frame that the network does not take now waits for
 * its turn in the buffer it has; one that cannot be sent is dropped, and its client will ask again.
 */
import type { NativeBuffer } from "../../base";
import {
  BufferPool,
  C,
  cPath,
  errnoName,
  type EventLoop,
  type FdWatch,
  IoError,
  libc,
  must,
  nativeBuffer,
} from "../../base/io";
import { AoeError } from "./errors";
import {
  ETHERNET_HEADER_BYTES,
  ETHERNET_TYPE_AOE,
  type MacAddress,
  readMac,
  SECTOR_BYTES,
  sectorsPerFrame,
} from "./protocol";
import type { AoeLink } from "./target";

const AF_PACKET = 17;
const SOCK_RAW = 3;
const MSG_TRUNC = 0x20;
const SIOCGIFFLAGS = 0x8913;
const SIOCGIFMTU = 0x8921;
const SIOCGIFHWADDR = 0x8927;
const SIOCGIFINDEX = 0x8933;
const IFF_UP = 1;
const INTERFACE_NAME_BYTES_MAX = 15;
const REQUEST_BYTES = 40;
const REQUEST_VALUE_OFFSET = 16;
const ARPHRD_ETHER = 1;
const EPERM = 1;
const ENODEV = 19;
const ENETDOWN = 100;
const ENXIO = 6;
/** Room in the kernel for bursts of many clients. */
const RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024;
/** Frames handled before other descriptors of the loop get their turn. */
const FRAMES_PER_EVENT_MAX = 64;
const SO_RCVBUFFORCE = 33;

export const AOE_BUFFER_COUNT = 128;
/** What clients are told: less than there are, so that some are left for other clients and own frames. */
const ADVERTISED_BUFFER_COUNT = 64;

export interface InterfaceDescription {
  readonly name: string;
  readonly index: number;
  readonly address: MacAddress;
  readonly mtuBytes: number;
  readonly isUp: boolean;
}

export interface AoeSocketEvents {
  /** Takes the frame's buffer over. */
  onFrame(frame: NativeBuffer, lengthBytes: number): void;
  /** The interface is gone, or the socket broke. */
  onGone(reason: string): void;
}

/** Throws "bad-interface" for one that is not there or not Ethernet. */
export function describeInterface(name: string, socket: number): InterfaceDescription {
  const bad = (reason: string) => new AoeError("bad-interface", `Cannot use interface "${name}": ${reason}`);
  if (name.length === 0 || Buffer.byteLength(name) > INTERFACE_NAME_BYTES_MAX)
    throw bad(`a name has 1 to ${INTERFACE_NAME_BYTES_MAX} bytes`);
  const request = nativeBuffer(REQUEST_BYTES);
  const ask = (code: number) => {
    request.bytes.fill(0);
    request.bytes.set(cPath(name));
    const result = libc.ioctl(socket, code, request.address);
    if (result === -ENODEV || result === -ENXIO) throw bad("there is none of that name; see ip link");
    must(`look at interface ${name}`, result);
    return request.view;
  };
  const index = ask(SIOCGIFINDEX).getInt32(REQUEST_VALUE_OFFSET, true);
  const hardware = ask(SIOCGIFHWADDR).getUint16(REQUEST_VALUE_OFFSET, true);
  if (hardware !== ARPHRD_ETHER) throw bad("it is not an Ethernet interface");
  const address = readMac(request, REQUEST_VALUE_OFFSET + 2);
  const mtuBytes = ask(SIOCGIFMTU).getInt32(REQUEST_VALUE_OFFSET, true);
  if (sectorsPerFrame(mtuBytes) < 1) throw bad(`its MTU of ${mtuBytes} bytes does not hold one sector`);
  const isUp = (ask(SIOCGIFFLAGS).getUint16(REQUEST_VALUE_OFFSET, true) & IFF_UP) !== 0;
  return { name, index, address, mtuBytes, isUp };
}

export class AoeSocket implements AoeLink {
  readonly bufferCount = ADVERTISED_BUFFER_COUNT;
  readonly #socket: number;
  readonly #watch: FdWatch;
  readonly #pool: BufferPool;
  readonly #frameBytesMax: number;
  readonly #unsent: { readonly frame: NativeBuffer; readonly lengthBytes: number }[] = [];
  readonly #events: AoeSocketEvents;
  #reading = true;
  #closed = false;
  /** Frames that the network did not take. */
  droppedCount = 0;

  private constructor(
    private readonly loop: EventLoop,
    socket: number,
    readonly description: InterfaceDescription,
    events: AoeSocketEvents,
  ) {
    this.#socket = socket;
    this.#events = events;
    this.#frameBytesMax = ETHERNET_HEADER_BYTES + description.mtuBytes;
    // Devices read whole sectors into the frame from offset 36 on.
    this.#pool = new BufferPool(this.#frameBytesMax + SECTOR_BYTES, AOE_BUFFER_COUNT, nativeBuffer);
    this.#watch = loop.watch(socket, (ready) => this.#ready(ready));
  }

  /** Throws "not-permitted", "bad-interface". */
  static open(loop: EventLoop, interfaceName: string, events: AoeSocketEvents): AoeSocket {
    const type = SOCK_RAW | C.SOCK_NONBLOCK | C.SOCK_CLOEXEC;
    // Protocol 0: nothing is heard before it is bound to the interface.
    const socket = libc.socket(AF_PACKET, type, 0);
    if (socket === -EPERM)
      throw new AoeError(
        "not-permitted",
        "Cannot open a raw socket: AoE needs root, or the capability CAP_NET_RAW",
      );
    must("open a raw socket", socket);
    try {
      const description = describeInterface(interfaceName, socket);
      if (libc.setsockopt(socket, C.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES) < 0)
        libc.setsockopt(socket, C.SOL_SOCKET, C.SO_RCVBUF, RECEIVE_BUFFER_BYTES);
      must(`bind to interface ${interfaceName}`, libc.bind(socket, linkAddress(description.index)));
      return new AoeSocket(loop, socket, description, events);
    } catch (error) {
      libc.close(socket);
      throw error;
    }
  }

  get address(): MacAddress {
    return this.description.address;
  }

  get mtuBytes(): number {
    return this.description.mtuBytes;
  }

  acquire(): NativeBuffer | undefined {
    return this.#pool.acquire();
  }

  send(frame: NativeBuffer, lengthBytes: number): void {
    if (this.#closed) return this.release(frame);
    if (this.#unsent.length === 0 && this.#trySend(frame, lengthBytes)) return this.release(frame);
    this.#unsent.push({ frame, lengthBytes });
    if (this.#unsent.length === 1) this.#setEvents();
  }

  release(frame: NativeBuffer): void {
    this.#pool.release(frame);
    if (this.#reading || this.#closed) return;
    this.#reading = true;
    this.#setEvents();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watch.close();
    libc.close(this.#socket);
    for (const { frame } of this.#unsent.splice(0)) this.release(frame);
  }

  #setEvents(): void {
    this.#watch.setEvents((this.#reading ? C.EPOLLIN : 0) | (this.#unsent.length > 0 ? C.EPOLLOUT : 0));
  }

  #ready(ready: number): void {
    if ((ready & C.EPOLLOUT) !== 0) this.#sendWaiting();
    if (!this.#closed && (ready & ~C.EPOLLOUT) !== 0) this.#receive();
  }

  #receive(): void {
    for (let count = 0; count < FRAMES_PER_EVENT_MAX && !this.#closed; count++) {
      const frame = this.#pool.acquire();
      if (frame === undefined) {
        this.#reading = false;
        return this.#setEvents();
      }
      const received = libc.recv(
        this.#socket,
        frame.address,
        this.#frameBytesMax,
        C.MSG_DONTWAIT | MSG_TRUNC,
      );
      if (received < 0) {
        this.#pool.release(frame);
        return this.#receiveFailed(received);
      }
      this.loop.receivedBytes += received;
      // With MSG_TRUNC the length is the frame's own: one that is longer was cut.
      if (received > this.#frameBytesMax) this.#pool.release(frame);
      else this.#events.onFrame(frame, received);
    }
  }

  #receiveFailed(errno: number): void {
    if (errno === -C.EAGAIN || errno === -C.EINTR) return;
    if (errno !== -ENETDOWN) return this.#gone(`receiving failed with ${errnoName(errno)}`);
    // Told once when the interface goes down, and when it goes away.
    if (!this.#isThere()) this.#gone("it was removed");
  }

  #isThere(): boolean {
    try {
      return describeInterface(this.description.name, this.#socket).index === this.description.index;
    } catch (error) {
      if (error instanceof AoeError || error instanceof IoError) return false;
      throw error;
    }
  }

  #gone(reason: string): void {
    this.close();
    this.#events.onGone(`Cannot go on with interface "${this.description.name}": ${reason}`);
  }

  /** False when the network takes nothing now. */
  #trySend(frame: NativeBuffer, lengthBytes: number): boolean {
    const sent = libc.send(this.#socket, frame.address, lengthBytes, C.MSG_DONTWAIT);
    if (sent === -C.EAGAIN) return false;
    if (sent < 0) this.droppedCount++;
    return true;
  }

  #sendWaiting(): void {
    while (this.#unsent.length > 0) {
      const { frame, lengthBytes } = this.#unsent[0] as { frame: NativeBuffer; lengthBytes: number };
      if (!this.#trySend(frame, lengthBytes)) return;
      this.#unsent.shift();
      this.release(frame);
    }
    this.#setEvents();
  }
}

/** struct sockaddr_ll for one interface and AoE's type. */
function linkAddress(interfaceIndex: number): Uint8Array {
  const bytes = new Uint8Array(20);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, AF_PACKET, true);
  view.setUint16(2, ETHERNET_TYPE_AOE);
  view.setInt32(4, interfaceIndex, true);
  return bytes;
}
