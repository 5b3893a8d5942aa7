# Sourced by the scripts for people: what a fresh Debian machine lacks is installed here, once, in one place.

BUN_VERSION=1.4.5
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '\n== %s\n' "$*"; }

die() {
  printf '%s\n' "$*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else die "Cannot run $1: it needs root, and there is no sudo; run this script as root"
  fi
}

# need_packages COMMAND=PACKAGE...: installs the packages of the commands (or files) that are not there.
need_packages() {
  local pair wanted missing=()
  for pair in "$@"; do
    wanted=${pair%%=*}
    case $wanted in
      /*) [ -e "$wanted" ] || missing+=("${pair#*=}") ;;
      *) PATH="$PATH:/usr/sbin:/sbin" command -v "$wanted" >/dev/null || missing+=("${pair#*=}") ;;
    esac
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "Cannot install ${missing[*]}: there is no apt-get; install them by hand"
  say "installing ${missing[*]}"
  as_root apt-get update -qq
  # A package may start a service of its own (etcd does): the tests start what they need themselves.
  as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >/dev/null
}

# Puts Bun of the pinned version first in PATH; it comes from npm, into .tools, when the machine has another or none.
need_bun() {
  if [ "$(bun --version 2>/dev/null)" != "$BUN_VERSION" ]; then
    export PATH="$repository/.tools/node_modules/.bin:$PATH"
    if [ "$(bun --version 2>/dev/null)" != "$BUN_VERSION" ]; then
      need_packages npm=npm
      say "installing bun $BUN_VERSION"
      npm install --loglevel=error --no-fund --no-audit --prefix "$repository/.tools" "bun@$BUN_VERSION" >/dev/null ||
        die "Cannot install bun $BUN_VERSION by npm: see above; is the npm registry reachable?"
    fi
  fi
  [ "$(bun --version)" = "$BUN_VERSION" ] || die "Cannot run bun $BUN_VERSION: PATH leads to $(bun --version)"
}

need_dependencies() {
  (cd "$repository" && bun install --frozen-lockfile --silent) ||
    die "Cannot install the dependencies: see above; is the npm registry reachable?"
}
