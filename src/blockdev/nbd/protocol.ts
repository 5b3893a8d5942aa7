/**
 * The numbers of the NBD protocol (the reference is doc/proto.md of the NetworkBlockDevice project), and nothing
 * else. All integers on the wire are big-endian. Messages, by offset, size and field:
 *
 *   request            0 4 magic | 4 2 flags | 6 2 command | 8 8 cookie | 16 8 offset | 24 4 length        = 28
 *   extended request   the same with its own magic and                               24 8 length        = 32
 *   simple reply       0 4 magic | 4 4 error | 8 8 cookie | read data                                   = 16
 *   structured chunk   0 4 magic | 4 2 flags | 6 2 type | 8 8 cookie | 16 4 length | payload             = 20
 *   extended chunk     0 4 magic | 4 2 flags | 6 2 type | 8 8 cookie | 16 8 offset | 24 8 length | ...   = 32
 *   option             0 8 IHAVEOPT | 8 4 option | 12 4 length | data                                   = 16
 *   option reply       0 8 magic | 8 4 option | 12 4 type | 16 4 length | data                          = 20
 */

/** "NBDMAGIC" and "IHAVEOPT", as two 32-bit halves: JavaScript reads no 64-bit integers cheaply. */
export const Magic = {
  serverHigh: 0x4e42444d,
  serverLow: 0x41474943,
  optionHigh: 0x49484156,
  optionLow: 0x454f5054,
  optionReplyHigh: 0x0003e889,
  optionReplyLow: 0x045565a9,
  request: 0x25609513,
  extendedRequest: 0x21e41c71,
  simpleReply: 0x67446698,
  structuredReply: 0x668e33ef,
  extendedReply: 0x6e8a278c,
} as const;

export const REQUEST_BYTES = 28;
export const EXTENDED_REQUEST_BYTES = 32;
export const SIMPLE_REPLY_BYTES = 16;
export const STRUCTURED_HEADER_BYTES = 20;
export const EXTENDED_HEADER_BYTES = 32;
export const OPTION_BYTES = 16;
export const OPTION_REPLY_BYTES = 20;
/** Zeroes that end an EXPORT_NAME answer unless the client declined them. */
export const EXPORT_NAME_PADDING_BYTES = 124;
/** The protocol's limit on any string: export names, descriptions, queries. */
export const STRING_BYTES_MAX = 4096;
/** The largest read or write, told to clients as the maximum block size; what they may assume untold. */
export const PAYLOAD_BYTES_MAX = 32 * 1024 * 1024;

export const HandshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

export const Option = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

export const OptionReply = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errorUnsupported: 0x80000001,
  errorPolicy: 0x80000002,
  errorInvalid: 0x80000003,
  errorTlsRequired: 0x80000005,
  errorUnknown: 0x80000006,
  errorTooBig: 0x80000009,
  errorExtendedHeadersRequired: 0x8000000a,
} as const;

export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

export const TransmissionFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDoNotFragment: 1 << 7,
  canMultiConnection: 1 << 8,
  sendCache: 1 << 10,
  sendFastZero: 1 << 11,
} as const;

export const Command = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

export const CommandFlag = {
  forceUnitAccess: 1 << 0,
  noHole: 1 << 1,
  doNotFragment: 1 << 2,
  requestOne: 1 << 3,
  fastZero: 1 << 4,
  payloadLength: 1 << 5,
} as const;

export const REPLY_FLAG_DONE = 1;

export const ReplyType = {
  none: 0,
  offsetData: 1,
  blockStatus: 5,
  blockStatusExtended: 6,
  error: 0x8001,
} as const;

export const ExtentFlag = { hole: 1, zero: 2 } as const;

/** The one metadata context we have, and its id once selected. */
export const ALLOCATION_CONTEXT = "base:allocation";
export const ALLOCATION_CONTEXT_ID = 1;

/** The error values that the protocol knows. */
export const NbdError = {
  none: 0,
  notPermitted: 1,
  io: 5,
  noMemory: 12,
  invalid: 22,
  noSpace: 28,
  overflow: 75,
  notSupported: 95,
  shutdown: 108,
} as const;
export type NbdError = (typeof NbdError)[keyof typeof NbdError];
