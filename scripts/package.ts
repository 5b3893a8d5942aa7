/**
 * `bun run package`: a .deb of the executable, its units, the default configuration and the documentation. It is the
 * tree that scripts/install lays out; dpkg keeps what an administrator changed below /etc/torus.
 *
 *   bun scripts/package.ts [--target linux-x64|linux-arm64] [--binary FILE] [--outdir DIR] [--compression xz|gzip]
 */
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import packageJson from "../package.json" with { type: "json" };

const root = join(import.meta.dir, "..");
const ARCHITECTURES: Readonly<Record<string, string>> = { "linux-x64": "amd64", "linux-arm64": "arm64" };
const STEP_MS_MAX = 300_000;

function run(command: readonly string[]): void {
  const result = Bun.spawnSync([...command], {
    cwd: root,
    timeout: STEP_MS_MAX,
    stdout: "pipe",
    stderr: "pipe",
  });
  if (result.exitCode === 0) return;
  console.error(
    `package: \`${command.join(" ")}\` ended with ${result.exitCode}: ${result.stderr.toString().trim()}`,
  );
  process.exit(1);
}

const POSTINST = `#!/bin/sh
set -e
if [ "$1" = configure ]; then
  if ! getent passwd torus >/dev/null; then
    useradd --system --home-dir /var/lib/torus --no-create-home --shell /usr/sbin/nologin torus
  fi
  chgrp torus /etc/torus/daemon.toml /etc/torus/torus.env
  install -d -o torus -g torus -m 0700 /var/lib/torus
  if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # An upgrade restarts what runs; a first installation leaves the start to the administrator, who configures first.
    systemctl try-restart torus.service
    [ -n "$2" ] || echo "torus: edit /etc/torus/daemon.toml, then: systemctl enable --now torus"
  fi
fi
`;

const PRERM = `#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  systemctl stop 'torus-attach@*.service' || true
  systemctl disable torus-attach@.service || true
  systemctl disable --now torus.service || true
fi
`;

const POSTRM = `#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
if [ "$1" = purge ]; then
  # Data is the administrator's to remove: it may be the only copy.
  rmdir /var/lib/torus 2>/dev/null || [ ! -d /var/lib/torus ] || echo "torus: /var/lib/torus still holds data"
  rm -rf /etc/torus
fi
`;

const { values } = parseArgs({
  options: {
    target: { type: "string" },
    binary: { type: "string" },
    outdir: { type: "string" },
    // gzip takes seconds where xz takes a minute.
    compression: { type: "string", default: "xz" },
  },
  strict: true,
});
const target = values.target ?? `${process.platform}-${process.arch}`;
const architecture = ARCHITECTURES[target];
if (architecture === undefined) {
  console.error(
    `package: cannot package for ${target}; --target is one of ${Object.keys(ARCHITECTURES).join(", ")}`,
  );
  process.exit(2);
}

const scratch = mkdtempSync(join(tmpdir(), "torus-package-"));
try {
  const binary = resolve(values.binary ?? join(scratch, "torus"));
  if (values.binary === undefined)
    run([process.execPath, "scripts/build.ts", "--target", target, "--outfile", binary]);
  const tree = join(scratch, "tree");
  run(["scripts/install", "--root", tree, "--binary", binary]);
  const documents = join(tree, "usr/share/doc/torus");
  mkdirSync(documents, { recursive: true });
  cpSync(join(root, "docs"), join(documents, "docs"), { recursive: true });
  cpSync(join(root, "README.md"), join(documents, "README.md"));
  cpSync(join(root, "scripts/monitoring"), join(documents, "monitoring"), { recursive: true });
  const control = join(tree, "DEBIAN");
  mkdirSync(control);
  const sizeKibibytes = Math.ceil(statSync(binary).size / 1024) + 1024;
  writeFileSync(
    join(control, "control"),
    `Package: torus
Version: ${packageJson.version}
Architecture: ${architecture}
Maintainer: torus maintainers <torus@localhost>
Installed-Size: ${sizeKibibytes}
Depends: libc6, adduser | passwd
Recommends: nbd-client, kmod
Section: admin
Priority: optional
Description: distributed block storage in one executable
 Volumes kept as replicated blocks on the peers of a cluster, attached over NBD
 or as block devices. One binary is the peer, the client and the tool.
`,
  );
  writeFileSync(join(control, "conffiles"), "/etc/torus/daemon.toml\n/etc/torus/torus.env\n");
  for (const [name, script] of Object.entries({ postinst: POSTINST, prerm: PRERM, postrm: POSTRM })) {
    writeFileSync(join(control, name), script);
    chmodSync(join(control, name), 0o755);
  }
  const outdir = resolve(values.outdir ?? join(root, "dist"));
  mkdirSync(outdir, { recursive: true });
  const file = join(outdir, `torus_${packageJson.version}_${architecture}.deb`);
  run(["dpkg-deb", `-Z${values.compression}`, "--build", "--root-owner-group", tree, file]);
  const megabytes = (readFileSync(file).byteLength / 1e6).toFixed(0);
  console.log(`package: ${file} (${megabytes} MB)`);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
