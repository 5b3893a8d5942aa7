export { torusBinary } from "./binary";
export {
  attachLoop,
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
export { Etcd } from "./etcd";
export { freePort } from "./ports";
export { type CommandResult, ManagedProcess, waitFor } from "./process";
export { openScene, type Scene } from "./scene";
export { bytesReceivedAt } from "./traffic";
