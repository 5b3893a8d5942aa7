# program: nbd-attach
# ext4 and xfs over the kernel's nbd client, attached by netlink and by ioctl: made, filled, checked, remounted, trimmed.
modprobe nbd nbds_max=4
for method in netlink ioctl; do
  echo "== $method"
  rm -f /tmp/file
  attach /tmp/file "volume-$method" $method
  test "$(blockdev --getsize64 "$DEVICE")" = $SIZE_BYTES
  queue=/sys/block/$NAME/queue
  test "$(cat $queue/logical_block_size)" = 4096
  test "$(cat $queue/write_cache)" = "write back"
  test "$(cat $queue/fua)" = 1
  test "$(cat $queue/discard_max_bytes)" -gt 0
  if [ $method = netlink ]; then test "$(cat /sys/block/$NAME/backend)" = volume-netlink; fi
  for type in ext4 xfs; do
    force=-F; if [ $type = xfs ]; then force=-f; fi
    mkfs.$type -q $force "$DEVICE"
    mount_device
    dd if=/dev/urandom of=/tmp/mount/f bs=1M count=24 status=none
    before=$(checksum /tmp/mount/f)
    drop_caches
    kill -TERM $PID
    says "it is mounted at /tmp/mount; unmount it first"
    umount /tmp/mount
    check_file_system $type
    drop_caches
    mount_device
    test "$(checksum /tmp/mount/f)" = "$before"
    full=$(stat -c %b /tmp/file)
    rm /tmp/mount/f
    sync
    fstrim /tmp/mount
    test "$(stat -c %b /tmp/file)" -lt "$full"
    umount /tmp/mount
    echo "$type: checksum, fsck and trim are right"
  done
  kill -TERM $PID
  wait $PID
  says detached
  test ! -e /sys/block/$NAME/pid
done
if dmesg | grep -iE "I/O error|ext4-fs error|xfs.*corrupt"; then exit 1; fi
