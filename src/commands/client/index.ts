export { type Client, startClient, type VolumeFlags, volumeArgs } from "./client";
