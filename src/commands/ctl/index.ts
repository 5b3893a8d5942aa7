/** `torus ctl`: what an administrator types. */
import { certCommand } from "../certificates";
import { group } from "../cli";
import { blockCommand } from "./block";
import { configCommand, wipeCommand } from "./config";
import { initCommand } from "./init";
import { peerCommand, peerListCommand } from "./peer";
import { ringCommand } from "./ring";
import { statusCommand } from "./status";
import { volumeCommand } from "./volume";

export { clusterStatus } from "./status";

export const ctlCommand = group("ctl", "Administer a cluster: volumes, peers, the ring", {
  init: initCommand,
  status: statusCommand,
  peer: peerCommand,
  "list-peers": peerListCommand,
  ring: ringCommand,
  volume: volumeCommand,
  block: blockCommand,
  config: configCommand,
  wipe: wipeCommand,
  cert: certCommand,
});
