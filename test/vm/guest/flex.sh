# disk: 6G
# The FlexVolume driver's verbs, by the name under which the kubelet calls it, as the kubelet calls them.
mkfs.ext4 -q "$DISK"
mount "$DISK" /data
modprobe nbd nbds_max=4
start_daemon
ln -s "$TORUS" /tmp/torus-flex
$TORUS ctl volume create-block data 96MiB >/dev/null
options='{"volume":"data","kubernetes.io/fsType":"ext4","kubernetes.io/readwrite":"rw"}'
flex() { local status=0; /tmp/torus-flex "$@" >/tmp/answer || status=$?; cat /tmp/answer; return $status; }
flex init | grep -q '"status":"Success"'
for round in 1 2; do
  flex attach "$options" node-1 | grep -q '"status":"Success"'
  DEVICE=$(grep -o '/dev/nbd[0-9]*' /tmp/answer)
  # Asked again it answers the same.
  flex attach "$options" node-1 | grep -q "$DEVICE"
  flex mount /srv/pod "$DEVICE" "$options" | grep -q '"status":"Success"'
  test "$(findmnt -n -o SOURCE /srv/pod)" = "$DEVICE"
  if [ $round = 1 ]; then echo kept >/srv/pod/kept; fi
  test "$(cat /srv/pod/kept)" = kept
  flex unmount /srv/pod | grep -q '"status":"Success"'
  # Asked again it is done already.
  flex unmount /srv/pod | grep -q '"status":"Success"'
  flex detach "$DEVICE" node-1 | grep -q '"status":"Success"'
  flex detach "$DEVICE" node-1 | grep -q '"status":"Success"'
  test ! -e "/sys/block/${DEVICE#/dev/}/pid"
done
if flex attach '{"volume":"none"}' node-1; then exit 1; fi
grep -q '"status":"Failure"' /tmp/answer
no_kernel_errors
kill -TERM $DAEMON
wait $DAEMON
