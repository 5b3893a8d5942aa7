/**
 * A running daemon: metadata, data path, registration, ring membership, heartbeat, admin server; started in that
 * order, ended in the reverse. Whatever fails at the start ends it with one line.
 */
import { hostname, networkInterfaces } from "node:os";
import { join } from "node:path";
import { formatSize, type Incarnation, type PeerId, TorusError } from "../../base";
import { systemClock, systemRandom } from "../../base/io";
import { type ClusterSettingsRecord, isMetaError, MetaRegistry, type PeerRegistration } from "../../meta";
import { loadTlsIdentity, type TlsIdentity } from "../../net/tls";
import { createRing } from "../../ring";
import { changeRing, type Metadata, metadataOver, type MetaLocation, openStore } from "../cli";
import { DataPlane, type UpkeepStatus, holderName, isDeadHolder, VOLUME_LEASE_TIMES } from "../data-plane";
import type { Logger } from "../log";
import { clusterFigures, MetricsExporter } from "../metrics";
import { AccessPolicy } from "./access";
import { type AdminServer, type Readiness, startAdminServer } from "./http";
import type { ServiceNotifier } from "./notify";
import type { DaemonOptions } from "./options";
import { openPeerGate, type PeerGate } from "./peer-gate";
import { peerIdentity } from "./peer-identity";
import { type PeerHttpServer, startPeerHttpServer } from "./peer-http";
import { chooseDeviceSize, chooseStoreSize, makeDataDirectory } from "./space";
import { StatusReport } from "./status-json";

const HEARTBEAT_MS = 2_000;
/** Locks of volumes this daemon exports: how long an open waits for a crashed holder. */
const WAIT_FOR_LOCK_MS = 20_000;
/** A terabyte in less than a day; settable while running. */
const SCRUB_BYTES_PER_SECOND = 16 * 1024 * 1024;
const REPORTED_MAX = 8;
const BLOCK_SIZE_DEFAULT = 512 * 1024;
/** Registrations of a daemon that was killed end by themselves. */
const REGISTER_WAIT_MS = 20_000;
const REGISTER_RETRY_MS = 500;
/** A certificate that ends sooner is named in every check of readiness and in the log. */
const CERTIFICATE_SOON_MS = 14 * 86_400_000;

export interface DaemonDependencies {
  readonly options: DaemonOptions;
  readonly location: MetaLocation;
  /** The metadata is this daemon's own: initialise, join, serve it to others. */
  readonly embedded: boolean;
  readonly logger: Logger;
  readonly notifier: ServiceNotifier;
  readonly onFatal: (error: TorusError) => void;
}

export class Daemon {
  readonly #dependencies: DaemonDependencies;
  #metadata: Metadata | undefined;
  #plane: DataPlane | undefined;
  #registry: MetaRegistry | undefined;
  #registration: PeerRegistration | undefined;
  #admin: AdminServer | undefined;
  #peerHttp: PeerHttpServer | undefined;
  #peerGate: PeerGate | undefined;
  #metrics: MetricsExporter | undefined;
  #tls: TlsIdentity | undefined;
  #access: AccessPolicy | undefined;
  #heartbeat: { cancel(): void } | undefined;
  #unfollowOrders: () => void = () => undefined;
  #stopped = false;
  #notReady: string[] = ["starting"];

  constructor(dependencies: DaemonDependencies) {
    this.#dependencies = dependencies;
  }

  get adminUrl(): string | undefined {
    return this.#admin?.url;
  }

  async start(): Promise<void> {
    const { options, location, logger } = this.#dependencies;
    makeDataDirectory(options.dataDirectory);
    if (options.tls !== undefined) this.#tls = await loadTlsIdentity(options.tls, systemClock.wallMs());
    this.#warnOfExpiry();
    const metadata = metadataOver(await openStore(location, { make: true }));
    this.#metadata = metadata;
    const access = new AccessPolicy(metadata.access);
    this.#access = access;
    const settings = await this.#settings(metadata);
    await access.follow(
      () => this.#plane?.forgetAccess(),
      (error) => logger.log("error", error.message),
    );
    this.#admin = this.#startAdmin(metadata, access);
    logger.log("info", `Cluster ${settings.clusterId}, metadata in ${metadata.context.store.description}`);
    const plane = await DataPlane.start({
      onLog: ({ level, message }) => logger.log(level, message),
      onFatal: this.#dependencies.onFatal,
      tls: this.#tls,
      decideAccess: (client, volumeId) => access.decide(client, volumeId),
    });
    this.#plane = plane;
    const peerId = await this.#openStorage(plane, metadata, settings);
    this.#registry = await MetaRegistry.start(metadata.context, { leaseTimes: VOLUME_LEASE_TIMES });
    await plane.connectRegistry(this.#registry, metadata, {
      blockSizeBytes: settings.blockSizeBytes,
      readCacheBytes: options.readCacheBytes,
      writeCacheBytes: options.writeCacheBytes,
      volume: { readLevel: options.readLevel, writeLevel: options.writeLevel },
      waitForLockMs: WAIT_FOR_LOCK_MS,
      peerId,
    });
    if (options.autoJoin || this.#dependencies.embedded) await this.#join(metadata, peerId);
    await plane.openUpkeep(
      {
        rebalanceBytesPerSecond: options.rebalanceBytesPerSecond,
        scrubBytesPerSecond: SCRUB_BYTES_PER_SECOND,
        scrubIntervalMs: options.scrubIntervalMs,
      },
      join(options.dataDirectory, "scrub-progress"),
    );
    this.#followOrders(plane, metadata);
    if (options.nbd !== undefined) {
      const { addresses } = await plane.openFrontEnd({
        listen: [options.nbd],
        only: undefined,
        keepOpen: [],
      });
      logger.log("info", `NBD exports on ${addresses.join(", ")}`);
    }
    this.#beat();
    this.#notReady = [];
    this.#warnOfOpenPorts();
    logger.log("info", `Ready: admin on ${this.#admin.url}, peer ${peerId}`);
    const { notifier } = this.#dependencies;
    notifier.ready(`Serving as peer ${peerId}; admin on ${this.#admin.url}`);
    notifier.startWatchdog(systemClock, () => plane.status());
  }

  /** Ends in order; may be called at any point of the start. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#notReady = ["stopping"];
    this.#heartbeat?.cancel();
    this.#unfollowOrders();
    this.#dependencies.notifier.stopping();
    try {
      await this.#peerGate?.stop();
      await this.#peerHttp?.stop();
      await this.#plane?.stop();
    } finally {
      await this.#registration?.close().catch((error: unknown) => {
        this.#dependencies.logger.log(
          "warn",
          `The registration stays until its lease ends: ${messageOf(error)}`,
        );
      });
      this.#access?.stop();
      this.#registry?.clusterWatch.close();
      await this.#admin?.stop();
      this.#metrics?.close();
      await this.#metadata?.context.store.close();
    }
  }

  async #settings(metadata: Metadata): Promise<ClusterSettingsRecord> {
    const found = await metadata.settings.find();
    if (found !== undefined) return found;
    const { embedded, options, logger } = this.#dependencies;
    if (!embedded && !options.debugInit) return metadata.settings.get();
    const { version: _, ...ring } = createRing({ type: "empty", replication: 1, members: [] });
    try {
      const made = await metadata.settings.init({
        blockSizeBytes: BLOCK_SIZE_DEFAULT,
        blockSpec: "crc,base",
        ring,
      });
      logger.log("info", `Initialised cluster ${made.clusterId}`);
      return made;
    } catch (error) {
      // Another daemon started at the same time.
      if (isMetaError(error, "already-initialised")) return metadata.settings.get();
      throw error;
    }
  }

  /** Opens the store, says who this is, and takes a new incarnation when the disk was rolled back (R5). */
  async #openStorage(plane: DataPlane, metadata: Metadata, settings: ClusterSettingsRecord): Promise<PeerId> {
    const { options, logger } = this.#dependencies;
    const directory = join(options.dataDirectory, "blocks");
    const { blockDevice } = options;
    const sizeBytes =
      blockDevice === undefined
        ? chooseStoreSize(directory, options.size)
        : chooseDeviceSize(blockDevice, options.size);
    const peerId = await peerIdentity(options.dataDirectory);
    const address = options.peerAddress;
    const tls = this.#tls;
    const wantsTls = address.protocol === "https:" || address.protocol === "adps:";
    if (wantsTls && tls === undefined)
      throw new TorusError(
        "unsupported",
        `Cannot serve blocks over ${address.protocol}// without a certificate: give --peer-cert-file, --peer-key-file and --peer-ca-file`,
        { exitCode: 2 },
      );
    const listen = `${address.hostname}:${address.port === "" ? 0 : address.port}`;
    const isAdp = address.protocol.startsWith("adp");
    const opened = await plane.openStorage({
      directory,
      device: blockDevice === undefined ? undefined : { path: blockDevice, overwrite: options.forceFormat },
      sizeBytes,
      clusterId: settings.clusterId,
      peerId,
      blockSizeBytes: settings.blockSizeBytes,
      listen: isAdp && tls === undefined ? [listen] : [],
      acceptLoss: options.acceptLoss,
    });
    if (opened.acceptedDamage.length > 0)
      logger.log(
        "warn",
        `Went on with what is intact, as a new disk (incarnation ${opened.incarnation}): ${opened.acceptedDamage.join("; ")}; the other peers fill in what is missing`,
      );
    if (tls !== undefined)
      this.#peerGate = openPeerGate({
        protocol: isAdp ? "adp" : "http",
        listen,
        identity: tls,
        plane,
        privateDirectory: options.dataDirectory,
        log: (level, message) => logger.log(level, message),
      });
    else if (!isAdp)
      this.#peerHttp = startPeerHttpServer(
        { hostname: address.hostname, port: Number(address.port) },
        plane,
        (message) => logger.log("warn", message),
      );
    const bound = this.#peerGate?.address ?? this.#peerHttp?.address ?? opened.addresses[0] ?? "";
    const scheme = `${isAdp ? "adp" : "http"}${tls === undefined ? "" : "s"}`;
    const advertised = advertisedAddress(scheme, address.hostname, bound);
    logger.log(
      "info",
      `Store ${blockDevice === undefined ? `in ${directory}` : `on ${blockDevice}`}: ${formatSize(opened.usedBytes)} of ${formatSize(opened.capacityBytes)} used; serving on ${advertised}`,
    );
    const description = {
      holder: holderName(),
      isDead: isDeadHolder,
      peerId,
      address: advertised,
      bootCount: opened.bootCount,
      progress: opened.progress,
      capacityBytes: opened.capacityBytes,
      usedBytes: opened.usedBytes,
      ...(options.zone === "" ? {} : { zone: options.zone }),
      ...(options.weight === undefined ? {} : { weight: options.weight }),
    };
    try {
      this.#registration = await this.#register(metadata, {
        ...description,
        incarnation: opened.incarnation,
      });
    } catch (error) {
      if (!isMetaError(error, "peer-rolled-back")) throw error;
      const incarnation = systemRandom.hex(8) as Incarnation;
      logger.log("warn", `${error.message}; going on as a new disk, incarnation ${incarnation}`);
      await plane.renewIncarnation(incarnation);
      this.#registration = await this.#register(metadata, { ...description, incarnation });
    }
    this.#registration.onLost((reason) =>
      this.#dependencies.onFatal(
        new TorusError("registration-lost", `Cannot go on as peer ${peerId}: ${reason}`),
      ),
    );
    return peerId;
  }

  /** Waits for the registration of a killed predecessor to end. */
  async #register(
    metadata: Metadata,
    description: Parameters<Metadata["peers"]["register"]>[0],
  ): Promise<PeerRegistration> {
    const endMs = systemClock.nowMs() + REGISTER_WAIT_MS;
    for (;;) {
      try {
        return await metadata.peers.register(description);
      } catch (error) {
        if (!isMetaError(error, "peer-registered") || systemClock.nowMs() > endMs) throw error;
        this.#notReady = [error.message];
        await Bun.sleep(REGISTER_RETRY_MS);
      }
    }
  }

  /** Adds this peer to the ring, unless it is a member. */
  async #join(metadata: Metadata, peerId: PeerId): Promise<void> {
    if ((await metadata.ring.current()).members.some((member) => member.peerId === peerId)) return;
    const { weight, zone } = await metadata.peers.get(peerId);
    const ring = await changeRing(metadata, { kind: "add", members: [{ peerId, weight, zone }] });
    this.#dependencies.logger.log("info", `Joined the ring, which is at version ${ring.version}`);
  }

  #followOrders(plane: DataPlane, metadata: Metadata): void {
    const { logger } = this.#dependencies;
    this.#unfollowOrders = metadata.upkeep.follow(
      (orders) => {
        plane.orderUpkeep(orders).catch((error: unknown) => {
          if (!this.#stopped) logger.log("error", `Cannot pass on what was ordered: ${messageOf(error)}`);
        });
      },
      (error) => logger.log("error", error.message),
    );
  }

  #beat(): void {
    if (this.#stopped) return;
    this.#report()
      .catch((error: unknown) => {
        this.#dependencies.logger.log("warn", `Cannot report this peer's state: ${messageOf(error)}`);
      })
      .finally(() => {
        this.#heartbeat = systemClock.schedule(HEARTBEAT_MS, () => this.#beat());
      });
  }

  async #report(): Promise<void> {
    const { storage, upkeep } = await this.#required().status();
    if (storage === undefined) return;
    const { usedBytes, capacityBytes, blockCount, suspectCount, ringVersion } = storage.peer;
    const progress = await this.#required().advanceStore();
    await this.#registration?.report({
      usedBytes,
      progress,
      capacityBytes,
      statistics: { blockCount, suspectCount, ringVersion, ...backgroundFigures(upkeep) },
    });
  }

  #required(): DataPlane {
    if (this.#plane === undefined)
      throw new TorusError("not-open", "Cannot ask the data path: it is not open yet");
    return this.#plane;
  }

  /** Takes the certificates anew (SIGHUP); what is wrong with them is logged, and the old ones stay. */
  async reload(): Promise<void> {
    const { options, logger } = this.#dependencies;
    if (options.tls === undefined) return;
    const identity = await loadTlsIdentity(options.tls, systemClock.wallMs());
    this.#tls = identity;
    this.#plane?.renewTls(identity);
    this.#peerGate?.renew(identity);
    this.#admin?.renew(identity);
    logger.log(
      "info",
      `Took the certificate of ${identity.subject}, good until ${new Date(identity.expiresMs).toISOString()}`,
    );
    this.#warnOfExpiry();
  }

  /** Safe on loopback only: whoever reaches these ports without certificates may do everything. */
  #warnOfOpenPorts(): void {
    if (this.#tls !== undefined) return;
    const { host, peerAddress, nbd } = this.#dependencies.options;
    const open = [host, peerAddress.hostname, ...(nbd === undefined ? [] : [hostOfListen(nbd)])].filter(
      (each) => each !== undefined && !isLoopback(each),
    );
    if (open.length > 0)
      this.#dependencies.logger.log(
        "warn",
        `Listening on ${[...new Set(open)].join(", ")} without certificates: whoever reaches it may read and change every volume; give --peer-cert-file, --peer-key-file and --peer-ca-file, or keep strangers off that network`,
      );
  }

  #warnOfExpiry(): void {
    const warning = this.#expiryWarning();
    if (warning !== undefined) this.#dependencies.logger.log("warn", warning);
  }

  #expiryWarning(): string | undefined {
    if (this.#tls === undefined) return undefined;
    const leftMs = this.#tls.expiresMs - systemClock.wallMs();
    if (leftMs > CERTIFICATE_SOON_MS) return undefined;
    const when = new Date(this.#tls.expiresMs).toISOString();
    return leftMs <= 0
      ? `The certificate ended on ${when}: put a new one in its place and send SIGHUP`
      : `The certificate ends on ${when}: renew it and send SIGHUP`;
  }

  /** An expired certificate, a data path that hangs: reasons not to send clients here. A full store still reads. */
  async #readiness(): Promise<Readiness> {
    const reasons = [...this.#notReady];
    if (reasons.length === 0) {
      if (this.#tls !== undefined && this.#tls.expiresMs <= systemClock.wallMs())
        reasons.push(this.#expiryWarning() ?? "the certificate has expired");
      try {
        await this.#required().status();
      } catch (error) {
        reasons.push(`the data path does not answer: ${messageOf(error)}`);
      }
    }
    return { ready: reasons.length === 0, reasons };
  }

  #startAdmin(metadata: Metadata, access: AccessPolicy): AdminServer {
    const { options, embedded, logger } = this.#dependencies;
    const plane = async () => this.#plane?.status();
    const metrics = new MetricsExporter({
      plane,
      cluster: () => ({
        ...clusterFigures(this.#registry?.cluster()),
        ready: this.#notReady.length === 0,
        certificateExpiresMs: this.#tls?.expiresMs,
      }),
    });
    this.#metrics = metrics;
    const report = new StatusReport(metadata, plane, () => systemClock.nowMs());
    return startAdminServer({
      host: options.host,
      port: options.port,
      embeddedStore: embedded ? metadata.context.store : undefined,
      access,
      tls: this.#tls,
      privateDirectory: options.dataDirectory,
      readiness: () => this.#readiness(),
      status: () => this.#required().status(),
      clusterStatus: () => report.report(),
      metrics: () => metrics.render(),
      metricsContentType: metrics.contentType,
      logLevel: () => logger.level,
      setLogLevel: (level) => {
        logger.setLevel(level);
        logger.log("info", `The log level is ${level} now`);
      },
      onRefused: (message) => logger.log("warn", message),
    });
  }
}

/** Lists may be long and a heartbeat is small: the first entries say what is wrong. */
function backgroundFigures(upkeep: UpkeepStatus | undefined): object {
  if (upkeep === undefined) return {};
  const { rebalance, scrub, gc } = upkeep;
  return {
    rebalance,
    scrub: { ...scrub, unrepaired: scrub.unrepaired.slice(0, REPORTED_MAX) },
    gc: { ...gc, kept: gc.kept.slice(0, REPORTED_MAX), keptCount: gc.kept.length },
  };
}

/** What others dial: the given host with the port that was bound; a wildcard becomes the first real address. */
export function advertisedAddress(scheme: string, host: string, bound: string): string {
  const port = bound.slice(bound.lastIndexOf(":") + 1);
  const wildcard = host === "0.0.0.0" || host === "[::]";
  return `${scheme}://${wildcard ? firstAddress() : host}:${port}`;
}

/** Of `HOST:PORT`; undefined for a unix socket. */
function hostOfListen(listen: string): string | undefined {
  return listen.startsWith("unix:") || listen.startsWith("/")
    ? undefined
    : listen.slice(0, listen.lastIndexOf(":"));
}

function isLoopback(host: string): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|\[?::1\]?)$/.test(host);
}

function firstAddress(): string {
  for (const addresses of Object.values(networkInterfaces()))
    for (const { address, internal, family } of addresses ?? [])
      if (!internal && family === "IPv4") return address;
  return hostname();
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
