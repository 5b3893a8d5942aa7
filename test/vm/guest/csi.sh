# disk: 6G
# program: csi-calls
# The CSI driver with the kernel's own nbd devices, asked by a gRPC client: what test/e2e/csi.test.ts shows by nbdfuse, and what
# only a kernel device can: the driver killed under a mounted volume, and a file system that grows while it is used.
mkfs.ext4 -q "$DISK"
mount "$DISK" /data
modprobe nbd nbds_max=8
start_daemon
start_driver() {
  $TORUS blk csi --endpoint unix:///run/csi.sock --node-id node-1 --state-dir /data/csi --wait 60s >/tmp/csi.log 2>&1 &
  PID=$!
  wait_for 120 grep -qs "Serving CSI on" /tmp/csi.log || { cat /tmp/csi.log; return 1; }
}
calls() { $(program csi-calls) /run/csi.sock "$@"; }

start_driver
calls first
test "$(stat -f -c %T /srv/pod)" != tmpfs
echo kept >/srv/pod/kept
sync
dd if=/dev/urandom of=/srv/pod/large bs=1M count=16 status=none
before=$(checksum /srv/pod/large)
(for index in $(seq 40); do dd if=/dev/urandom of=/srv/pod/f$index bs=64k count=2 conv=fsync status=none || touch /tmp/failed; sleep 0.1; done) &
writer=$!
sleep 1
kill -KILL $PID
wait $PID || true
start_driver
grep -q "Took over" /tmp/csi.log
wait $writer
test ! -e /tmp/failed
echo "== the driver was killed and started again: writes went on"
calls second
test "$(df -B1M --output=size /srv/pod | tail -1)" -gt 150
test "$(cat /srv/clone/kept)" = kept
drop_caches
test "$(checksum /srv/pod/large)" = "$before"
test "$(checksum /srv/clone/large)" = "$before"
test "$(blockdev --getsize64 /srv/block)" = $((64 * 1024 * 1024))
dd if=/dev/urandom of=/srv/block bs=1M count=8 oflag=direct status=none
echo "== grew while used; clones hold what their source held; a block volume is a device"
calls third
test -z "$($TORUS blk list --csv | tail -n +2)"
no_kernel_errors
kill -TERM $PID
wait $PID
kill -TERM $DAEMON
wait $DAEMON
