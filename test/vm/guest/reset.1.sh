# disk: 6G
# The whole machine, the daemon with it, is reset in the middle of writes; see reset.2.sh for what must be there after.
mkfs.ext4 -q "$DISK"
mount "$DISK" /data
modprobe nbd nbds_max=4
start_daemon
for type in ext4 xfs; do
  mkdir -p /srv/$type
  # On a busy machine the daemon may answer late.
  wait_for 90 $TORUS blk attach $type --create 400MiB --mkfs $type --mount /srv/$type --background
done
# What is written is the file's number again and again, so that the next boot knows it without being told.
for type in ext4 xfs; do
  (
    for index in $(seq 100000); do
      yes "$type $index" | head -c 300000 | dd of=/srv/$type/f$index bs=64k iflag=fullblock conv=fsync status=none
      # Through the share to the host: this file was whole before the reset.
      echo $index >/mnt/synced-$type.new
      mv /mnt/synced-$type.new /mnt/synced-$type
      rm -f /srv/$type/f$((index - 40))
    done
  ) &
  # And writes that nobody synced.
  (while :; do dd if=/dev/urandom of=/srv/$type/unsynced bs=256k count=8 status=none; sleep 0.3; done) &
done
for _ in $(seq 600); do
  if [ "$(cat /mnt/synced-ext4 2>/dev/null || echo 0)" -ge 8 ] && [ "$(cat /mnt/synced-xfs 2>/dev/null || echo 0)" -ge 8 ]; then break; fi
  sleep 0.5
done
test "$(cat /mnt/synced-ext4)" -ge 8
test "$(cat /mnt/synced-xfs)" -ge 8
echo "reset in the middle of file $(cat /mnt/synced-ext4) and $(cat /mnt/synced-xfs)"
cut_power
