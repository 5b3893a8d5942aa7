export { type Client, httpArgs, startClient, type VolumeFlags, volumeArgs } from "./client";
