# Shared by the guest's scripts; prepended to each. `set -e` is on: a step that fails ends the script.
set -e
SIZE_BYTES=$((400 * 1024 * 1024))
PROGRAM=/tmp/nbd-attach
mkdir -p /tmp/mount
cp /mnt/nbd-attach "$PROGRAM"

# attach FILE IDENTIFIER METHOD: starts the program, waits for its line, sets PID, DEVICE and NAME
attach() {
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
