# disk: 6G
# Linux's own aoe driver on a volume that `blk aoe` serves, over a pair of virtual Ethernet interfaces at the usual MTU and at a
# jumbo one: ext4 and xfs made, filled, checked, remounted; every answered write survives the target's kill -9.
mkfs.ext4 -q "$DISK"
mount "$DISK" /data
start_daemon
ip link add aoe0 type veth peer name aoe1
modprobe aoe aoe_iflist=aoe1
minor=0

# serve VOLUME MINOR: starts the target, sets PID
serve() {
  $TORUS blk aoe "$1" aoe0 7 "$2" --wait 60s >/tmp/aoe.log 2>&1 &
  PID=$!
  wait_for 120 grep -qs "Serving e7.$2" /tmp/aoe.log || { cat /tmp/aoe.log; return 1; }
}

for mtu in 1500 9000; do
  ip link set aoe0 down
  ip link set aoe1 down
  ip link set aoe0 mtu $mtu up
  ip link set aoe1 mtu $mtu up
  for type in ext4 xfs; do
    echo "== MTU $mtu, $type"
    minor=$((minor + 1))
    $TORUS ctl volume create-block disk$minor 400MiB >/dev/null
    serve disk$minor $minor
    DEVICE=/dev/etherd/e7.$minor
    discovered() { aoe-discover; [ -b $DEVICE ] && [ "$(blockdev --getsize64 $DEVICE)" = $SIZE_BYTES ]; }
    wait_for 60 discovered
    mkfs.$type -q $DEVICE
    mount_device
    dd if=/dev/urandom of=/tmp/mount/f bs=1M count=8 status=none
    before=$(checksum /tmp/mount/f)
    sync
    # The driver sends again what nobody answers, until the target is back; what was answered is there.
    kill -KILL $PID
    wait $PID || true
    serve disk$minor $minor
    dd if=/dev/urandom of=/tmp/mount/g bs=1M count=4 conv=fsync status=none
    after=$(checksum /tmp/mount/g)
    umount /tmp/mount
    check_file_system $type
    drop_caches
    mount_device
    test "$(checksum /tmp/mount/f)" = "$before"
    test "$(checksum /tmp/mount/g)" = "$after"
    umount /tmp/mount
    largest=$(cat /sys/class/net/aoe0/mtu)
    test "$largest" = $mtu
    kill -TERM $PID
    wait $PID
    $TORUS blk aoe --flush e7.$minor
    echo "MTU $mtu, $type: checksum and fsck are right, also after kill -9 of the target"
  done
done
no_kernel_errors
kill -TERM $DAEMON
wait $DAEMON
