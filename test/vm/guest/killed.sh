# disk: 6G
# The attaching process is killed with -9 while a file system is mounted and written, again and again: a new process takes
# the device over, nothing that was written is missing, synced or not. A device is not taken over when somebody else
# wrote the volume meanwhile.
mkfs.ext4 -q "$DISK"
mkdir -p /srv/disk
mount "$DISK" /data
modprobe nbd nbds_max=4
start_daemon
$TORUS blk attach data --create 400MiB --mkfs ext4 --mount /srv/disk >/tmp/attach.log 2>&1 &
PID=$!
served /tmp/attach.log
first=$DEVICE
for round in 1 2; do
  (
    for index in $(seq 16); do
      # Every other file is not synced: the kernel's caches and what the killed process had taken must make it whole.
      if [ $((index % 2)) = 0 ]; then how=conv=fsync; else how=conv=notrunc; fi
      dd if=/dev/urandom of=/srv/disk/r$round-$index bs=64k count=4 $how status=none || echo "write failed" >>/tmp/failures
      sha256sum </srv/disk/r$round-$index >/tmp/sum-r$round-$index
      sleep 0.1
    done
  ) &
  writer=$!
  wait_for 60 test -e /tmp/sum-r$round-4
  kill -KILL $PID
  test ! -e /tmp/sum-r$round-16
  wait $PID || true
  $TORUS blk list --csv | grep -q "^$DEVICE,data,.*,false,/srv/disk"
  $TORUS blk attach data --mount /srv/disk --wait 60s >/tmp/attach.log 2>&1 &
  PID=$!
  served /tmp/attach.log
  grep -q "Took over data as $first" /tmp/attach.log
  wait $writer
  test ! -e /tmp/failures
  drop_caches
  for index in $(seq 16); do test "$(sha256sum </srv/disk/r$round-$index)" = "$(cat /tmp/sum-r$round-$index)"; done
  echo "round $round: taken over while mounted, nothing failed, nothing lost"
done
no_kernel_errors
umount /srv/disk
check_file_system ext4
mount "$DEVICE" /srv/disk
kill -KILL $PID
wait $PID || true
# Somebody else writes the volume: it must be seen that the mounted file system's caches are not of this state.
$TORUS ctl volume unlock data --force
head -c 65536 /dev/zero >/tmp/zeros
$TORUS ctl block snapshot create data@before
$TORUS ctl block snapshot restore data@before --yes 2>/dev/null || $TORUS ctl block snapshot restore data@before
if $TORUS blk attach data --wait 60s >/tmp/refused.log 2>&1; then exit 1; fi
cat /tmp/refused.log
grep -q "another writer had the volume meanwhile; unmount /srv/disk first" /tmp/refused.log
echo "a device of another state is not taken over"
umount -l /srv/disk
$TORUS blk detach data
kill -TERM $DAEMON
wait $DAEMON
