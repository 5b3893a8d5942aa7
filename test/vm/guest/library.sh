# Shared by the guest's scripts; prepended to each. `set -e` is on: a step that fails ends the script.
set -e
SECONDS=0
# What there is to say about a failure.
say_why() { for log in /tmp/*.log; do if [ -e "$log" ]; then echo "--- $log"; tail -n 15 "$log"; fi; done; echo "--- kernel"; dmesg | tail -n 15; }
trap 'status=$?; if [ $status != 0 ]; then say_why; fi' EXIT
SIZE_BYTES=$((400 * 1024 * 1024))
mkdir -p /tmp/mount
# The second disk, and programs of the shared folder: in User Mode Linux they run well from there.
case $MACHINE in
  uml) DISK=/dev/ubdb; program() { echo "/mnt/$1"; } ;;
  qemu) DISK=/dev/vdb; program() { if [ ! -e "/tmp/$1" ]; then cp "/mnt/$1" /tmp/; fi; echo "/tmp/$1"; } ;;
esac

# cut_power: ends the machine at once, as a failing power supply does
cut_power() { touch /run/vm/reset; sleep 60; }

# attach FILE IDENTIFIER METHOD: starts the program, waits for its line, sets PID, DEVICE and NAME
attach() {
  PROGRAM=$(program nbd-attach)
  "$PROGRAM" "$1" $SIZE_BYTES "$2" "$3" >/tmp/out 2>&1 &
  PID=$!
  for _ in $(seq 300); do if grep -q /dev/nbd /tmp/out; then break; fi; sleep 0.1; done
  cat /tmp/out
  DEVICE=$(grep -o '/dev/nbd[0-9]*' /tmp/out | head -1)
  test -n "$DEVICE"
  NAME=${DEVICE#/dev/}
}

# says TEXT: the program's last line is to be TEXT within 10 s
says() {
  for _ in $(seq 100); do if tail -1 /tmp/out | grep -q "$1"; then return 0; fi; sleep 0.1; done
  echo "expected \"$1\", found:"; cat /tmp/out
  return 1
}

# wait_for SECONDS COMMAND...: until it succeeds
wait_for() {
  local seconds=$1 until
  until=$((SECONDS + seconds))
  shift
  until "$@"; do if [ $SECONDS -gt $until ]; then echo "waited $seconds s in vain for: $*"; return 1; fi; sleep 0.1; done
}

mount_device() {
  mount "$DEVICE" /tmp/mount
  # A checksum on the folder below a failed mount would pass.
  test "$(stat -f -c %T /tmp/mount)" != tmpfs
}

drop_caches() { sync; echo 3 >/proc/sys/vm/drop_caches; }
checksum() { cat "$@" | sha256sum | cut -d' ' -f1; }
check_file_system() {
  case $1 in
    ext4) fsck.ext4 -f -n "$DEVICE" ;;
    xfs) xfs_repair -n "$DEVICE" ;;
  esac >/tmp/fsck 2>&1 || { cat /tmp/fsck; return 1; }
}

# The executable with its own daemon, as a newcomer starts it; the store and the metadata lie on the machine's second disk.
TORUS=$(program torus)
start_daemon() {
  export TORUS_CONFIG_DIR=/tmp/config
  cd /data
  $TORUS daemon --size 3GiB >>/tmp/daemon.log 2>&1 &
  DAEMON=$!
  for _ in $(seq 600); do if grep -q "Ready:" /tmp/daemon.log; then return 0; fi; sleep 0.1; done
  cat /tmp/daemon.log
  return 1
}

# served LOG: waits for the line that says which device, sets DEVICE and NAME
served() {
  DEVICE=
  for _ in $(seq 1200); do if grep -qE "(Attached|Took over) .* as /dev/nbd" "$1"; then break; fi; sleep 0.1; done
  cat "$1"
  DEVICE=$(grep -oE "as /dev/nbd[0-9]+" "$1" | tail -1 | cut -d' ' -f2)
  test -n "$DEVICE"
  NAME=${DEVICE#/dev/}
}

# Bytes that blocks take in the daemon's store, as its metrics tell.
used_bytes() {
  exec 7<>/dev/tcp/127.0.0.1/4321
  printf 'GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n' >&7
  awk '/^torus_store_used_bytes[ {]/ { printf "%d\n", $NF }' <&7
  exec 7<&-
}

no_kernel_errors() {
  if dmesg | grep -iE "I/O error|ext4-fs error|ext4-fs.*warning|xfs.*corrupt|xfs.*shut"; then return 1; fi
}
