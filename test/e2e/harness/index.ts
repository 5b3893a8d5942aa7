export { torusBinary } from "./binary";
export {
  attachLoop,
  type FioResult,
  fio,
  fioCommand,
  mount,
  mountObstacle,
  nbdcopy,
  nbdinfo,
  nbdlist,
  nbdsh,
  qemuImg,
  qemuIo,
  tcpUri,
  unixUri,
} from "./clients";
export { Cluster, type NbdServer, type PeerScheme } from "./cluster";
export { freePort } from "./ports";
export { type CommandResult, waitFor } from "./process";
export { openScene, Scene } from "./scene";
export { bytesReceivedAt } from "./traffic";
export { startStampWriter, verifyStamps } from "./stamps";
