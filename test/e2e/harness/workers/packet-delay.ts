/**
 * A network as long as one wishes, for kernels without netem: `bun packet-delay.ts DELAY_MS` makes the network device
 * `slow` and gives back every IP packet that is routed into it, DELAY_MS after it came, in the same order. Whole
 * packets wait, not bytes of a connection, so handshakes, windows and acknowledgements take their time as they do on a
 * long cable. What comes while PACKETS_MAX wait is dropped, as by a router whose queue is full. Lives until it is killed.
 *
 * Source: Linux, Documentation/networking/tuntap.rst.
 */
import { C, EventLoop, libc, must, nativeBuffer } from "../../../../src/base/io";

const PACKET_BYTES_MAX = 65_536;
const PACKETS_MAX = 4_096;
const TUNSETIFF = 0x400454ca;
const IFF_TUN = 0x0001;
/** No header before each packet. */
const IFF_NO_PI = 0x1000;
const REQUEST_FLAGS_AT = 16;

const delayMs = Number(process.argv[2]);
if (!(delayMs >= 0)) throw new Error(`Cannot delay by ${process.argv[2]}: give milliseconds`);

function openTun(name: string): number {
  const fd = must("open /dev/net/tun", libc.open("/dev/net/tun", C.O_RDWR | C.O_NONBLOCK, 0));
  const request = nativeBuffer(40);
  request.bytes.set(Buffer.from(name));
  request.words[REQUEST_FLAGS_AT / 4] = IFF_TUN | IFF_NO_PI;
  must(`make the network device ${name}`, libc.ioctl(fd, TUNSETIFF, request.address));
  return fd;
}

const tun = openTun("slow");
const loop = new EventLoop();
const packets = nativeBuffer(PACKET_BYTES_MAX * PACKETS_MAX);
const dropped = nativeBuffer(PACKET_BYTES_MAX);
const lengths = new Uint32Array(PACKETS_MAX);
const dueMs = new Float64Array(PACKETS_MAX);
/** Packets received and sent so far; packet n lies in slot n mod PACKETS_MAX. */
let received = 0;
let sent = 0;
let armed = false;

const addressOf = (packet: number) => packets.address + (packet % PACKETS_MAX) * PACKET_BYTES_MAX;

function receive(): void {
  for (;;) {
    const isFull = received - sent === PACKETS_MAX;
    const length = libc.read(tun, isFull ? dropped.address : addressOf(received), PACKET_BYTES_MAX);
    if (length <= 0) break;
    if (isFull) continue;
    lengths[received % PACKETS_MAX] = length;
    dueMs[received % PACKETS_MAX] = loop.nowMs() + delayMs;
    received++;
  }
  send();
}

function send(): void {
  const nowMs = loop.nowMs();
  for (; sent < received && (dueMs[sent % PACKETS_MAX] as number) <= nowMs; sent++)
    libc.write(tun, addressOf(sent), lengths[sent % PACKETS_MAX] as number);
  if (armed || sent === received) return;
  armed = true;
  loop.schedule((dueMs[sent % PACKETS_MAX] as number) - nowMs, () => {
    armed = false;
    send();
  });
}

loop.watch(tun, receive);
console.log("ready");
await loop.run();
