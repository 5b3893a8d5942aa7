/** `torus ctl`: what an administrator types. */
import { certCommand } from "../certificates";
import { group } from "../cli";
import { blockCommand } from "./block";
import { configCommand, wipeCommand } from "./config";
import { gcCommand } from "./gc";
import { doctorCommand } from "./doctor";
import { initCommand } from "./init";
import { peerCommand, peerListCommand } from "./peer";
import { rebalanceCommand } from "./rebalance";
import { ringCommand } from "./ring";
import { scrubCommand } from "./scrub";
import { statusCommand } from "./status";
import { versionCommand } from "../version";
import { volumeCommand } from "./volume";

export { withTemporarySnapshot } from "./readable";
export { clusterStatus } from "./status";

export const ctlCommand = group("ctl", "Administer a cluster: volumes, peers, the ring", {
  init: initCommand,
  status: statusCommand,
  peer: peerCommand,
  "list-peers": peerListCommand,
  ring: ringCommand,
  rebalance: rebalanceCommand,
  scrub: scrubCommand,
  gc: gcCommand,
  volume: volumeCommand,
  block: blockCommand,
  config: configCommand,
  wipe: wipeCommand,
  cert: certCommand,
  doctor: doctorCommand,
  version: versionCommand,
});
