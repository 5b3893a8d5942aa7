export { torusBinary } from "./binary";
export { writeRandomFile } from "./client-suite";
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
export {
  type CertificateFiles,
  certificateFactory,
  certificateFlags,
  Cluster,
  type NbdServer,
  type PeerScheme,
} from "./cluster";
export { makeNbdCertificates, nbdServerFlags } from "./nbd-certificates";
export { freePort } from "./ports";
export { type CommandResult, waitFor } from "./process";
export { openScene, Scene } from "./scene";
export { Terminal } from "./terminal";
export { bytesReceivedAt } from "./traffic";
export { checkStamps, startStampWriter, verifyStamps } from "./stamps";
