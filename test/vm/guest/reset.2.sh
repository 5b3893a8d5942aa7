# After the reset of reset.1.sh: the daemon starts from its disk, the journals are replayed, every synced file is whole.
mount "$DISK" /data
modprobe nbd nbds_max=4
start_daemon
for type in ext4 xfs; do
  mkdir -p /srv/$type
  # On a busy machine the daemon may answer late.
  wait_for 90 $TORUS blk attach $type --mount /srv/$type --background --wait 60s
  synced=$(cat /mnt/synced-$type)
  from=$((synced - 38))
  if [ $from -lt 1 ]; then from=1; fi
  for index in $(seq $from "$synced"); do
    test "$(yes "$type $index" | head -c 300000 | sha256sum)" = "$(sha256sum </srv/$type/f$index)" || { echo "$type: file $index of $synced is not whole"; exit 1; }
  done
  DEVICE=$(findmnt -n -o SOURCE /srv/$type)
  umount /srv/$type
  check_file_system $type
  $TORUS blk detach $type
  echo "$type: journal replayed, files $from to $synced whole, fsck clean"
done
no_kernel_errors
kill -TERM $DAEMON
wait $DAEMON
