/** The contract over a real etcd. */
import { systemClock, systemRandom } from "../../../src/base/io";
import { EtcdStore } from "../../../src/meta";
import { EtcdProcess } from "../../support/etcd";
import { keyValueContract } from "./suite";

let etcd: EtcdProcess;
keyValueContract("etcd", {
  isShared: true,
  start: async () => {
    etcd = await EtcdProcess.start();
  },
  open: async () =>
    new EtcdStore({
      endpoints: [etcd.endpoint],
      tls: false,
      clock: systemClock,
      random: systemRandom,
    }),
  compact: async (store) => etcd.compact((await store.range("contract/")).revision),
  restart: async () => {
    await etcd.kill();
    await etcd.resume();
  },
  stop: () => etcd.remove(),
});
