export { type Client, httpArgs, startClient, withClient, type VolumeFlags, volumeArgs } from "./client";
