# disk: 6G
# The short selection, which every test run can afford: one ext4 on one volume goes from netlink (its process killed with -9 while
# mounted and written, and started again) to ioctl (fsck, fstrim) to the kernel's aoe driver (its target killed with -9), and back to
# netlink, where the power is cut in the middle of writes. short.2.sh tells what must be there after.
mkfs.ext4 -q "$DISK"
mkdir -p /srv/disk
mount "$DISK" /data
modprobe nbd nbds_max=4
start_daemon

echo "== netlink"
$TORUS blk attach data --create 400MiB --mkfs ext4 --mount /srv/disk --method netlink >/tmp/attach.log 2>&1 &
PID=$!
served /tmp/attach.log
first=$DEVICE
test "$(blockdev --getsize64 "$DEVICE")" = $SIZE_BYTES
test "$(stat -f -c %T /srv/disk)" != tmpfs
test "$(cat /sys/block/$NAME/queue/write_cache)" = "write through"
test "$($TORUS blk list --csv | grep -c "^$DEVICE,data,$SIZE_BYTES,false,$PID,true,/srv/disk")" = 1
dd if=/dev/urandom of=/srv/disk/kept bs=1M count=4 status=none
dd if=/dev/urandom of=/srv/disk/trimmed bs=1M count=24 status=none
kept=$(checksum /srv/disk/kept)
sync
# Written until the new process has been there for a while; every other file is not synced.
(
  index=0
  while [ ! -e /tmp/enough ]; do
    index=$((index + 1))
    if [ $((index % 2)) = 0 ]; then how=conv=fsync; else how=conv=notrunc; fi
    dd if=/dev/urandom of=/srv/disk/f$index bs=64k count=4 $how status=none || echo "write failed" >>/tmp/failures
    sha256sum </srv/disk/f$index >/tmp/sum-f$index
    echo $index >/tmp/written
    sleep 0.2
  done
) &
writer=$!
written() { [ "$(cat /tmp/written 2>/dev/null || echo 0)" -ge "$1" ]; }
wait_for 60 written 3
kill -KILL $PID
wait $PID || true
$TORUS blk attach data --mount /srv/disk --wait 60s >/tmp/attach.log 2>&1 &
PID=$!
served /tmp/attach.log
grep -q "Took over data as $first" /tmp/attach.log
wait_for 60 written $(($(cat /tmp/written) + 3))
touch /tmp/enough
wait $writer
test ! -e /tmp/failures
drop_caches
for index in $(seq "$(cat /tmp/written)"); do test "$(sha256sum </srv/disk/f$index)" = "$(cat /tmp/sum-f$index)"; done
kill -TERM $PID
wait $PID
if findmnt /srv/disk >/dev/null || [ -e /sys/block/$NAME/pid ]; then exit 1; fi
echo "netlink: taken over while mounted, nothing failed, nothing lost"

echo "== ioctl"
$TORUS blk attach data --method ioctl --device /dev/nbd2 --background
DEVICE=/dev/nbd2
test "$(cat /sys/block/nbd2/queue/write_cache)" = "write back"
check_file_system ext4
# Without making inode tables on the way, which would take the space that is to come back.
mount -o noinit_itable $DEVICE /srv/disk
test "$(checksum /srv/disk/kept)" = "$kept"
rm /srv/disk/trimmed
sync
full=$(used_bytes)
fstrim /srv/disk
if $TORUS blk detach data 2>/tmp/refused.log; then exit 1; fi
grep -q "it is mounted at /srv/disk; unmount it first" /tmp/refused.log
umount /srv/disk
check_file_system ext4
$TORUS blk detach data
test ! -e /sys/block/nbd2/pid
$TORUS ctl gc run >/dev/null
echo "ioctl: checksum and fsck are right"

echo "== aoe"
ip link add aoe0 type veth peer name aoe1
ip link set aoe0 mtu 9000 up
ip link set aoe1 mtu 9000 up
modprobe aoe aoe_iflist=aoe1
serve() {
  $TORUS blk aoe data aoe0 7 1 --wait 60s >/tmp/aoe.log 2>&1 &
  PID=$!
  wait_for 120 grep -qs "Serving e7.1" /tmp/aoe.log
}
serve
DEVICE=/dev/etherd/e7.1
discovered() { aoe-discover; [ -b $DEVICE ] && [ "$(blockdev --getsize64 $DEVICE)" = $SIZE_BYTES ]; }
wait_for 60 discovered
mount -o noinit_itable $DEVICE /tmp/mount
test "$(checksum /tmp/mount/kept)" = "$kept"
dd if=/dev/urandom of=/tmp/mount/kept bs=1M count=4 conv=fsync status=none
kept=$(checksum /tmp/mount/kept)
kill -KILL $PID
wait $PID || true
serve
dd if=/dev/urandom of=/tmp/mount/more bs=1M count=2 conv=fsync status=none
umount /tmp/mount
check_file_system ext4
kill -TERM $PID
wait $PID
$TORUS blk aoe --flush e7.1
echo "aoe: checksum and fsck are right, also after kill -9 of the target"

echo "== trimmed space comes back"
came_back() { [ "$(used_bytes)" -lt $((full - 8 * 1024 * 1024)) ]; }
wait_for 240 came_back || { echo "$full -> $(used_bytes) bytes"; exit 1; }
echo "$full -> $(used_bytes) bytes in the store"

echo "== reset"
$TORUS blk attach data --mount /srv/disk --background
DEVICE=$(findmnt -n -o SOURCE /srv/disk)
test "$(checksum /srv/disk/kept)" = "$kept"
no_kernel_errors
echo "$kept" >/mnt/short-kept
(while :; do dd if=/dev/urandom of=/srv/disk/unsynced bs=256k count=8 status=none; sleep 0.3; done) &
(
  for index in $(seq 100000); do
    # What is written is the file's number again and again, so that the next boot knows it without being told.
    yes "short $index" | head -c 300000 | dd of=/srv/disk/s$index bs=64k iflag=fullblock conv=fsync status=none
    # Through the share to the host: this file was whole before the reset.
    echo $index >/mnt/short-synced.new
    mv /mnt/short-synced.new /mnt/short-synced
  done
) &
synced() { [ "$(cat /mnt/short-synced 2>/dev/null || echo 0)" -ge 8 ]; }
wait_for 240 synced
echo "reset in the middle of file $(cat /mnt/short-synced)"
cut_power
