# program: nbd-attach
# The serving process is killed while a file system is mounted and written; another one takes the device over, nobody
# sees an error. A device whose process lives is not taken. The device grows while it is attached.
modprobe nbd nbds_max=4
attach /tmp/file volume netlink
first=$DEVICE
mkfs.ext4 -q "$DEVICE"
mount_device
(
  for index in $(seq 40); do
    dd if=/dev/urandom of=/tmp/mount/f$index bs=64k count=4 conv=fsync status=none || echo "write failed" >>/tmp/failures
    sleep 0.05
  done
) &
writer=$!
sleep 1
kill -KILL $PID
wait $PID || true
sleep 2
attach /tmp/file volume auto
grep -q "took over $first" /tmp/out
wait $writer
test ! -e /tmp/failures
before=$(checksum /tmp/mount/f*)
umount /tmp/mount
check_file_system ext4
drop_caches
mount_device
test "$(checksum /tmp/mount/f*)" = "$before"
echo "taken over while mounted: nothing failed, nothing lost"

if "$PROGRAM" /tmp/other $SIZE_BYTES volume netlink >/tmp/second 2>&1; then exit 1; fi
grep -q "the process that attached it is alive" /tmp/second
test "$(checksum /tmp/mount/f*)" = "$before"
echo "a live device was not taken over"

kill -USR1 $PID
says "resized $((SIZE_BYTES / 2 * 3))"
test "$(blockdev --getsize64 "$DEVICE")" = $((SIZE_BYTES / 2 * 3))
resize2fs "$DEVICE" >/dev/null 2>&1
test "$(df -B1M --output=size /tmp/mount | tail -1)" -gt 450
echo "grew while mounted"

umount /tmp/mount
check_file_system ext4
kill -TERM $PID
wait $PID
says detached
if dmesg | grep -iE "I/O error|ext4-fs error"; then exit 1; fi
