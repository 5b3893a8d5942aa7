# After the reset of short.1.sh: the daemon starts from its disk, the journal is replayed, every synced file is whole.
mount "$DISK" /data
modprobe nbd nbds_max=4
start_daemon
mkdir -p /srv/disk
# On a busy machine the daemon may answer late.
wait_for 90 $TORUS blk attach data --mount /srv/disk --background --wait 60s
synced=$(cat /mnt/short-synced)
for index in $(seq "$synced"); do
  test "$(yes "short $index" | head -c 300000 | sha256sum)" = "$(sha256sum </srv/disk/s$index)" || { echo "file $index of $synced is not whole"; exit 1; }
done
test "$(checksum /srv/disk/kept)" = "$(cat /mnt/short-kept)"
DEVICE=$(findmnt -n -o SOURCE /srv/disk)
umount /srv/disk
check_file_system ext4
$TORUS blk detach data
no_kernel_errors
echo "journal replayed, $synced files whole, fsck clean"
kill -TERM $DAEMON
wait $DAEMON
