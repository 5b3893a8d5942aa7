export { IoError, type IoErrorCode } from "./errors";
export { C, cPath, errnoName, libc, must, systemError } from "./libc";
export { BufferPool, bufferAt, nativeBuffer, populatedBuffer } from "./memory";
export type {
  StreamAddress,
  StreamConnection,
  StreamHandler,
  StreamListener,
  StreamNetwork,
} from "./stream";
export { bootTimeMs, systemClock, systemRandom } from "./system";
