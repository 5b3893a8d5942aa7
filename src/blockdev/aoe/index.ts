/** Volumes over ATA over Ethernet: see README.md. */
export { flushKernelClient } from "./kernel-client";
export { formatMac, type MacAddress, MAJOR_MAX, MINOR_MAX, parseMac } from "./protocol";
export { AoeSocket, type AoeSocketEvents, type InterfaceDescription } from "./socket";
export { type AoeLink, type AoeStatistics, AoeTarget, type AoeTargetOptions } from "./target";
