/**
 * An AoE target over one BlockDevice: frames in, frames out, no I/O of its own, so that tests and the fuzzer drive what
 * production runs. Each request lives in the buffer its frame came in: a write's data goes to the device from there,
 * a read's into there, and the answer leaves in it.
 *
 * Invariants: a frame that is no proper request for this target is never answered and never touches the device; every
 * request is answered at most once; writes have one effect however often their frame comes (request-memory.ts) and
 * overlapping requests happen in the order of their coming (request-order.ts). Without `writeCache` a write is
 * answered when it is durable.
 */
import type { Clock, NativeBuffer } from "../../base";
import { type BlockDevice, DeviceStatus } from "../device";
import { TargetAccess } from "./access";
import {
  ATA_STATUS_ERROR,
  ATA_STATUS_READY,
  AtaError,
  AtaFeature,
  type AtaKind,
  ataCommand,
  readLba,
  writeIdentity,
} from "./ata";
import {
  AOE_VERSION,
  AoeCommand,
  AoeErrorCode,
  CONFIG_STRING_BYTES_MAX,
  ConfigCommand,
  ETHERNET_FRAME_BYTES_MIN,
  ETHERNET_TYPE_AOE,
  FLAG_ERROR,
  FLAG_RESPONSE,
  MAC_BROADCAST,
  type MacAddress,
  MAJOR_ANY,
  MaskCommand,
  MaskError,
  MINOR_ANY,
  Offset,
  readMac,
  ReserveCommand,
  SECTOR_BYTES,
  sectorsPerFrame,
  turnAround,
  writeMac,
} from "./protocol";
import { type RememberedRequest, RequestMemory } from "./request-memory";
import { type OrderedRequest, RequestOrder } from "./request-order";
import { WriteThrough } from "./write-through";

/** Where frames go. */
export interface AoeLink {
  readonly address: MacAddress;
  readonly mtuBytes: number;
  /** Requests that can be under way at once. */
  readonly bufferCount: number;
  /** A buffer for a frame of our own making; undefined when all are in use. */
  acquire(): NativeBuffer | undefined;
  /** Sends a frame (or drops it, as Ethernet may) and takes its buffer back. */
  send(frame: NativeBuffer, lengthBytes: number): void;
  /** Takes the buffer of a frame back that is not answered. */
  release(frame: NativeBuffer): void;
}

export interface AoeTargetOptions {
  readonly device: BlockDevice;
  readonly link: AoeLink;
  readonly clock: Clock;
  readonly major: number;
  readonly minor: number;
  /** Answer writes before they are durable; for clients that send flushes. */
  readonly writeCache: boolean;
  /** MAC mask list to start with; empty: everybody. */
  readonly allowed: readonly MacAddress[];
  readonly serial: string;
  readonly firmware: string;
  /** The device answers "shutdown": it will never work again. */
  readonly onDeviceGone: () => void;
}

export interface AoeStatistics {
  readonly requests: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  readonly errors: number;
  /** Frames that were no request for this target. */
  readonly ignored: number;
  /** Requests that came again. */
  readonly repeated: number;
}

const FIRMWARE_VERSION = 1;

export class AoeTarget {
  readonly #options: AoeTargetOptions;
  readonly #access: TargetAccess;
  readonly #memory = new RequestMemory();
  readonly #order = new RequestOrder();
  readonly #writeThrough: WriteThrough;
  readonly #stopResize: () => void;
  readonly #frameBytesMax: number;
  readonly #statistics = { requests: 0, readBytes: 0, writtenBytes: 0, errors: 0, ignored: 0, repeated: 0 };
  readonly sectorCountMax: number;
  #config = new Uint8Array(0);
  #writeCacheEnabled: boolean;
  #underWay = 0;
  #closed = false;
  #idle: (() => void) | undefined;

  constructor(options: AoeTargetOptions) {
    this.#options = options;
    this.#access = new TargetAccess(options.allowed);
    this.#writeThrough = new WriteThrough(options.device);
    this.#writeCacheEnabled = options.writeCache;
    this.sectorCountMax = sectorsPerFrame(options.link.mtuBytes);
    this.#frameBytesMax = options.link.mtuBytes + 14;
    this.#stopResize = options.device.onResize(() => this.advertise());
  }

  get statistics(): AoeStatistics {
    return this.#statistics;
  }

  /** Tells everybody on the network that the target is there (or has another size). */
  advertise(): void {
    const { link, major, minor } = this.#options;
    const frame = link.acquire();
    if (frame === undefined) return;
    frame.bytes.fill(0, 0, ETHERNET_FRAME_BYTES_MIN);
    frame.view.setUint16(Offset.type, ETHERNET_TYPE_AOE);
    frame.view.setUint8(Offset.command, AoeCommand.config);
    turnAround(frame, link.address, major, minor);
    writeMac(frame, Offset.destination, MAC_BROADCAST);
    this.#send(frame, this.#writeConfig(frame));
  }

  /** A frame as it came from the wire; its buffer is the target's until it is sent or released. */
  receive(frame: NativeBuffer, lengthBytes: number): void {
    if (!this.#isForUs(frame, lengthBytes)) {
      this.#statistics.ignored++;
      return this.#options.link.release(frame);
    }
    const { view } = frame;
    this.#statistics.requests++;
    if (view.getUint8(Offset.versionAndFlags) >> 4 !== AOE_VERSION)
      return this.#refuse(frame, AoeErrorCode.badVersion);
    const client = readMac(frame, Offset.source);
    switch (view.getUint8(Offset.command)) {
      case AoeCommand.ata:
        return this.#ata(frame, lengthBytes, client);
      case AoeCommand.config:
        return this.#configure(frame, lengthBytes, client);
      case AoeCommand.macMask:
        return this.#mask(frame, lengthBytes, client);
      case AoeCommand.reserve:
        return this.#reserve(frame, lengthBytes, client);
      default:
        return this.#refuse(frame, AoeErrorCode.unknownCommand);
    }
  }

  /** Ignores frames from now on; resolves when what was under way has been answered. */
  close(): Promise<void> {
    this.#closed = true;
    this.#stopResize();
    if (this.#underWay === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#idle = resolve;
    });
  }

  #isForUs(frame: NativeBuffer, lengthBytes: number): boolean {
    const { link, major, minor } = this.#options;
    if (this.#closed || lengthBytes < Offset.argument || lengthBytes > frame.bytes.length) return false;
    const { view } = frame;
    if (view.getUint16(Offset.type) !== ETHERNET_TYPE_AOE) return false;
    if ((view.getUint8(Offset.versionAndFlags) & FLAG_RESPONSE) !== 0) return false;
    const toMajor = view.getUint16(Offset.major);
    const toMinor = view.getUint8(Offset.minor);
    if (toMajor !== major && toMajor !== MAJOR_ANY) return false;
    if (toMinor !== minor && toMinor !== MINOR_ANY) return false;
    const destination = readMac(frame, Offset.destination);
    if (destination !== link.address && destination !== MAC_BROADCAST) return false;
    const client = readMac(frame, Offset.source);
    // An answer to a group address would go to everybody.
    return (frame.bytes[Offset.source]! & 1) === 0 && this.#access.isHeard(client);
  }

  #ata(frame: NativeBuffer, lengthBytes: number, client: MacAddress): void {
    if (lengthBytes < Offset.ataData) return this.#refuse(frame, AoeErrorCode.badArgument);
    if (!this.#access.isReservedFor(client)) return this.#refuse(frame, AoeErrorCode.reserved);
    const { view } = frame;
    const command = ataCommand(view.getUint8(Offset.ataCommand));
    if (command === undefined) return this.#answerAta(frame, ATA_STATUS_ERROR, AtaError.aborted, 0);
    const { kind } = command;
    const count = view.getUint8(Offset.ataSectorCount);
    const isWrite = kind === "write" || kind === "writeDurably";
    if (isWrite || kind === "read" || kind === "verify") {
      if (count === 0 || (kind !== "verify" && count > this.sectorCountMax))
        return this.#refuse(frame, AoeErrorCode.badArgument);
      if (isWrite && lengthBytes < Offset.ataData + count * SECTOR_BYTES)
        return this.#refuse(frame, AoeErrorCode.badArgument);
      return this.#transfer(frame, client, kind, readLba(frame, command.lba48), count);
    }
    this.#control(frame, kind);
  }

  /** Commands that move no sectors. */
  #control(frame: NativeBuffer, kind: AtaKind): void {
    const { device, serial, firmware } = this.#options;
    switch (kind) {
      case "identify":
        writeIdentity(frame, Offset.ataData, {
          sizeBytes: device.sizeBytes,
          serial,
          firmware,
          model: `torus ${device.name}`,
          writeCacheEnabled: this.#writeCacheEnabled,
        });
        return this.#answerAta(frame, ATA_STATUS_READY, 0, SECTOR_BYTES);
      case "flush":
        return this.#flush(frame);
      case "setFeatures": {
        const feature = frame.view.getUint8(Offset.ataFeature);
        if (feature === AtaFeature.enableWriteCache && this.#options.writeCache)
          this.#writeCacheEnabled = true;
        else if (feature === AtaFeature.disableWriteCache) {
          const wasEnabled = this.#writeCacheEnabled;
          this.#writeCacheEnabled = false;
          // Whoever turns it off counts on what was answered before, too.
          if (wasEnabled) return this.#flush(frame);
        } else if (feature !== AtaFeature.setTransferMode)
          return this.#answerAta(frame, ATA_STATUS_ERROR, AtaError.aborted, 0);
        return this.#answerAta(frame, ATA_STATUS_READY, 0, 0);
      }
      case "checkPower":
        // "Active or idle", in the sector count.
        frame.view.setUint8(Offset.ataSectorCount, 0xff);
        return this.#answerAta(frame, ATA_STATUS_READY, 0, 0);
      default:
        return this.#answerAta(frame, ATA_STATUS_READY, 0, 0);
    }
  }

  #transfer(frame: NativeBuffer, client: MacAddress, kind: AtaKind, lba: number, count: number): void {
    const { device, clock } = this.#options;
    const lengthBytes = count * SECTOR_BYTES;
    if (lba * SECTOR_BYTES + lengthBytes > device.sizeBytes)
      return this.#answerAta(frame, ATA_STATUS_ERROR, AtaError.noSuchSector, 0);
    const isWrite = kind === "write" || kind === "writeDurably";
    if (isWrite && device.readOnly) return this.#answerAta(frame, ATA_STATUS_ERROR, AtaError.aborted, 0);
    const endBytes = Offset.ataData + (isWrite ? lengthBytes : 0);
    const checksum = Bun.hash.crc32(frame.bytes.subarray(Offset.argument, endBytes));
    const tag = frame.view.getUint32(Offset.tag);
    const earlier = this.#memory.find(client, tag, checksum, clock.nowMs());
    if (earlier !== undefined) return this.#repeat(frame, earlier);
    const remembered = this.#memory.begin(client, tag, checksum);
    this.#underWay++;
    const finish = (status: DeviceStatus) => {
      if (!isWrite) this.#memory.forget(client, remembered);
      this.#finishAta(frame, remembered, kind, status, kind === "read" ? lengthBytes : 0);
      if (status !== DeviceStatus.ok) return;
      if (isWrite) this.#statistics.writtenBytes += lengthBytes;
      else this.#statistics.readBytes += lengthBytes;
    };
    const request: OrderedRequest = {
      startSector: lba,
      endSector: lba + count,
      isWrite,
      run: () => this.#run(frame, kind, lba * SECTOR_BYTES, lengthBytes, request, finish),
    };
    this.#order.submit(request);
  }

  #run(
    frame: NativeBuffer,
    kind: AtaKind,
    offsetBytes: number,
    lengthBytes: number,
    request: OrderedRequest,
    finish: (status: DeviceStatus) => void,
  ): void {
    const { device } = this.#options;
    if (kind === "verify") return this.#verify(offsetBytes, lengthBytes, request, finish);
    if (!request.isWrite)
      return device.read(offsetBytes, lengthBytes, frame, Offset.ataData, (status) => {
        this.#order.finish(request);
        finish(status);
      });
    const durably = kind === "writeDurably" || !this.#writeCacheEnabled;
    device.write(offsetBytes, lengthBytes, frame, Offset.ataData, false, (status) => {
      this.#order.finish(request);
      if (status !== DeviceStatus.ok || !durably) finish(status);
      else this.#writeThrough.sync(finish);
    });
  }

  /** READ VERIFY: 255 sectors may not fit into a frame, and nothing of them is sent. */
  #verify(
    offsetBytes: number,
    lengthBytes: number,
    request: OrderedRequest,
    finish: (status: DeviceStatus) => void,
  ): void {
    const { device, link } = this.#options;
    const scratch = link.acquire();
    if (scratch === undefined) {
      this.#order.finish(request);
      return finish(DeviceStatus.ioError);
    }
    const pieceBytesMax = this.sectorCountMax * SECTOR_BYTES;
    const step = (doneBytes: number): void => {
      const pieceBytes = Math.min(lengthBytes - doneBytes, pieceBytesMax);
      device.read(offsetBytes + doneBytes, pieceBytes, scratch, 0, (status) => {
        if (status === DeviceStatus.ok && doneBytes + pieceBytes < lengthBytes)
          return step(doneBytes + pieceBytes);
        link.release(scratch);
        this.#order.finish(request);
        finish(status);
      });
    };
    step(0);
  }

  #repeat(frame: NativeBuffer, earlier: RememberedRequest): void {
    this.#statistics.repeated++;
    if (earlier.doneMs === undefined) return this.#options.link.release(frame);
    this.#answerAta(frame, earlier.status, earlier.error, 0);
  }

  #flush(frame: NativeBuffer): void {
    this.#underWay++;
    this.#options.device.flush((status) => this.#finishAta(frame, undefined, "flush", status, 0));
  }

  #finishAta(
    frame: NativeBuffer,
    remembered: RememberedRequest | undefined,
    kind: AtaKind,
    status: DeviceStatus,
    dataBytes: number,
  ): void {
    const ok = status === DeviceStatus.ok;
    const ataStatus = ok ? ATA_STATUS_READY : ATA_STATUS_ERROR;
    const error = ok ? 0 : ataErrorOf(status, kind);
    if (remembered !== undefined) {
      remembered.doneMs = this.#options.clock.nowMs();
      remembered.status = ataStatus;
      remembered.error = error;
    }
    if (status === DeviceStatus.shutdown) {
      this.#refuse(frame, AoeErrorCode.unavailable);
      if (!this.#closed) this.#options.onDeviceGone();
    } else this.#answerAta(frame, ataStatus, error, ok ? dataBytes : 0);
    this.#underWay--;
    if (this.#underWay === 0) this.#idle?.();
  }

  #answerAta(frame: NativeBuffer, status: number, error: number, dataBytes: number): void {
    if (status !== ATA_STATUS_READY) this.#statistics.errors++;
    this.#turn(frame);
    frame.view.setUint8(Offset.ataCommand, status);
    frame.view.setUint8(Offset.ataFeature, error);
    this.#send(frame, Offset.ataData + dataBytes);
  }

  #configure(frame: NativeBuffer, lengthBytes: number, client: MacAddress): void {
    if (lengthBytes < Offset.configString) return this.#refuse(frame, AoeErrorCode.badArgument);
    const stringBytes = frame.view.getUint16(Offset.configLength);
    const command = frame.view.getUint8(Offset.configCommand) & 0x0f;
    if (stringBytes > CONFIG_STRING_BYTES_MAX || Offset.configString + stringBytes > lengthBytes)
      return this.#refuse(frame, AoeErrorCode.badArgument);
    const given = frame.bytes.subarray(Offset.configString, Offset.configString + stringBytes);
    const isSet = command === ConfigCommand.setIfEmpty || command === ConfigCommand.set;
    if (isSet && !this.#access.isReservedFor(client)) return this.#refuse(frame, AoeErrorCode.reserved);
    if (command === ConfigCommand.test && !sameBytes(given, this.#config)) return this.#ignore(frame);
    if (command === ConfigCommand.testPrefix && !sameBytes(given, this.#config.subarray(0, stringBytes)))
      return this.#ignore(frame);
    if (command === ConfigCommand.setIfEmpty && this.#config.length > 0 && !sameBytes(given, this.#config))
      return this.#refuse(frame, AoeErrorCode.configPresent);
    if (command > ConfigCommand.set) return this.#refuse(frame, AoeErrorCode.badArgument);
    if (isSet) this.#config = given.slice();
    this.#turn(frame);
    this.#send(frame, this.#writeConfig(frame));
  }

  #writeConfig(frame: NativeBuffer): number {
    const { view } = frame;
    const command = view.getUint8(Offset.configCommand) & 0x0f;
    view.setUint16(Offset.configBufferCount, this.#options.link.bufferCount);
    view.setUint16(Offset.configFirmware, FIRMWARE_VERSION);
    view.setUint8(Offset.configSectorCount, this.sectorCountMax);
    view.setUint8(Offset.configCommand, (AOE_VERSION << 4) | command);
    view.setUint16(Offset.configLength, this.#config.length);
    frame.bytes.set(this.#config, Offset.configString);
    return Offset.configString + this.#config.length;
  }

  #mask(frame: NativeBuffer, lengthBytes: number, client: MacAddress): void {
    if (lengthBytes < Offset.maskDirectives) return this.#refuse(frame, AoeErrorCode.badArgument);
    const command = frame.view.getUint8(Offset.maskCommand);
    let error: number = MaskError.none;
    if (command === MaskCommand.edit) {
      if (!this.#access.isReservedFor(client)) return this.#refuse(frame, AoeErrorCode.reserved);
      error = this.#access.editMasks(frame, lengthBytes);
    } else if (command !== MaskCommand.read) return this.#refuse(frame, AoeErrorCode.badArgument);
    this.#turn(frame);
    frame.view.setUint8(Offset.maskError, error);
    this.#send(frame, this.#access.writeMasks(frame, this.#frameBytesMax));
  }

  #reserve(frame: NativeBuffer, lengthBytes: number, client: MacAddress): void {
    if (lengthBytes < Offset.reserveAddresses) return this.#refuse(frame, AoeErrorCode.badArgument);
    const command = frame.view.getUint8(Offset.reserveCommand);
    if (command > ReserveCommand.forceSet) return this.#refuse(frame, AoeErrorCode.badArgument);
    if (command === ReserveCommand.set && !this.#access.isReservedFor(client))
      return this.#refuse(frame, AoeErrorCode.reserved);
    if (command !== ReserveCommand.read && this.#access.reserve(frame, lengthBytes) === undefined)
      return this.#refuse(frame, AoeErrorCode.badArgument);
    this.#turn(frame);
    this.#send(frame, this.#access.writeHolders(frame, this.#frameBytesMax));
  }

  #refuse(frame: NativeBuffer, code: AoeErrorCode): void {
    this.#statistics.errors++;
    this.#turn(frame);
    frame.view.setUint8(Offset.versionAndFlags, (AOE_VERSION << 4) | FLAG_RESPONSE | FLAG_ERROR);
    frame.view.setUint8(Offset.error, code);
    this.#send(frame, Offset.ataData);
  }

  #ignore(frame: NativeBuffer): void {
    this.#statistics.ignored++;
    this.#options.link.release(frame);
  }

  #turn(frame: NativeBuffer): void {
    const { link, major, minor } = this.#options;
    turnAround(frame, link.address, major, minor);
  }

  #send(frame: NativeBuffer, lengthBytes: number): void {
    // Padding shows nothing of what the buffer held before.
    if (lengthBytes < ETHERNET_FRAME_BYTES_MIN) frame.bytes.fill(0, lengthBytes, ETHERNET_FRAME_BYTES_MIN);
    this.#options.link.send(frame, Math.max(lengthBytes, ETHERNET_FRAME_BYTES_MIN));
  }
}

function ataErrorOf(status: DeviceStatus, kind: AtaKind): number {
  if (status === DeviceStatus.invalid) return AtaError.noSuchSector;
  if (status === DeviceStatus.ioError && (kind === "read" || kind === "verify"))
    return AtaError.uncorrectable;
  return AtaError.aborted;
}

function sameBytes(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, index) => byte === other[index]);
}
