# disk: 6G
# A newcomer's daemon and one line for a mounted disk, with the executable: netlink and ioctl, ext4 and xfs; made, filled,
# checked, remounted; trimmed space comes back to the store; the volume grows while mounted; a snapshot is mounted too.
mkfs.ext4 -q "$DISK"
mkdir -p /srv/disk
mount "$DISK" /data
modprobe nbd nbds_max=4
start_daemon
came_back() { [ "$(used_bytes)" -lt $((full - 10 * 1024 * 1024)) ]; }
for method in netlink ioctl; do
  for type in ext4 xfs; do
    echo "== $method $type"
    volume=$method-$type
    $TORUS blk attach $volume --create 400MiB --mkfs $type --mount /srv/disk --method $method >/tmp/attach.log 2>&1 &
    PID=$!
    served /tmp/attach.log
    test "$(blockdev --getsize64 "$DEVICE")" = $SIZE_BYTES
    test "$(stat -f -c %T /srv/disk)" != tmpfs
    queue=/sys/block/$NAME/queue
    test "$(cat $queue/logical_block_size)" = 4096
    test "$(cat $queue/discard_max_bytes)" -gt 0
    # By netlink nothing is answered before it is durable: no cache. By ioctl flushes are what makes it so.
    if [ $method = netlink ]; then cache="write through"; else cache="write back"; fi
    test "$(cat $queue/write_cache)" = "$cache"
    test "$($TORUS blk list --csv | grep -c "^$DEVICE,$volume,$SIZE_BYTES,false,$PID,true,/srv/disk")" = 1
    dd if=/dev/urandom of=/srv/disk/f bs=1M count=16 status=none
    before=$(checksum /srv/disk/f)
    sync
    # SIGTERM unmounts what the command mounted, flushes and detaches.
    kill -TERM $PID
    wait $PID
    if findmnt /srv/disk >/dev/null || [ -e /sys/block/$NAME/pid ]; then exit 1; fi
    $TORUS blk attach $volume --method $method --device /dev/nbd2 --background
    DEVICE=/dev/nbd2
    check_file_system $type
    # ext4 goes on making its inode tables while it is mounted, as large as what comes back here, unless told not to.
    if [ $type = ext4 ]; then options=noinit_itable; else options=rw; fi
    mount -o $options /dev/nbd2 /srv/disk
    test "$(checksum /srv/disk/f)" = "$before"
    # Mounted by others: not torn away.
    if [ $type = ext4 ]; then
      if $TORUS blk detach $volume 2>/tmp/refused.log; then exit 1; fi
      grep -q "it is mounted at /srv/disk; unmount it first" /tmp/refused.log
    fi
    rm /srv/disk/f
    sync
    full=$(used_bytes)
    fstrim /srv/disk
    umount /srv/disk
    # In the words of Torus, and in today's.
    if [ $type = ext4 ]; then $TORUS blk nbd -d /dev/nbd2; else $TORUS blk detach $volume; fi
    test ! -e /sys/block/nbd2/pid
    $TORUS ctl gc run >/dev/null
    # Blocks are deleted a while after they were found dead, and the longer the slower the machine collects.
    wait_for 240 came_back || { echo "$full -> $(used_bytes) bytes"; exit 1; }
    echo "$method $type: checksum, fsck, trim ($full -> $(used_bytes) bytes) are right"
  done
done

echo "== resize and snapshot"
$TORUS blk attach netlink-ext4 --mount /srv/disk --background
DEVICE=$(findmnt -n -o SOURCE /srv/disk)
echo old >/srv/disk/version
sync
$TORUS ctl block snapshot create netlink-ext4@one
echo new >/srv/disk/version
sync
$TORUS ctl volume resize netlink-ext4 600MiB
grown() { [ "$(blockdev --getsize64 "$DEVICE")" = $((600 * 1024 * 1024)) ]; }
wait_for 60 grown
resize2fs "$DEVICE" >/dev/null 2>&1
test "$(df -B1M --output=size /srv/disk | tail -1)" -gt 500
mkdir -p /srv/one
$TORUS blk attach netlink-ext4 --snapshot one --mount /srv/one --background
test "$(cat /srv/one/version)" = old
test "$(cat /srv/disk/version)" = new
if touch /srv/one/x 2>/dev/null; then exit 1; fi
$TORUS blk detach netlink-ext4@one
$TORUS blk detach netlink-ext4
test -z "$($TORUS blk list --csv | tail -n +2)"
no_kernel_errors
kill -TERM $DAEMON
wait $DAEMON
