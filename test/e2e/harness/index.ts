export { Intruders } from "./intruder";
export { torusBinary } from "./binary";
export { Browser, type Look } from "./browser";
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
  type Daemon,
  type NbdServer,
  type PeerScheme,
} from "./cluster";
export { makeNbdCertificates, nbdServerFlags } from "./nbd-certificates";
export { type Host, Network, networkObstacle } from "./network";
export { startLoadWriter, verifyLoad } from "./load-writer";
export { Machine, machineObstacle } from "./machine";
export { freePort } from "./ports";
export { type CommandResult, waitFor } from "./process";
export { History } from "./history";
export { planRounds, type Rounds } from "./rounds";
export { openScene, Scene } from "./scene";
export { Terminal } from "./terminal";
export { bytesReceivedAt } from "./traffic";
export { checkVerifiedPages } from "./verified-pages";
export { checkStamps, startStampWriter, type StampWriter, verifyStamps } from "./stamps";
