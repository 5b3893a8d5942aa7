#!/bin/bash
# usage: machine.sh FOLDER SHARED
# Boots this machine's own systemd, as it is installed, as PID 1 of a machine of its own: its root is this machine's
# with a scratch layer on top (in memory, below FOLDER), with its own processes, network, host name and control
# groups; SHARED is at /srv in it. Nothing that happens in there reaches this machine. Ends when it is killed.
set -euo pipefail
folder=$1 shared=$2
if [ "${3-}" != inside ]; then
  # The control groups of the machine are made below one of its own, and go with it.
  for hierarchy in /sys/fs/cgroup/unified /sys/fs/cgroup; do
    if [ -e "$hierarchy/cgroup.procs" ] && [ "$(stat -fc %T "$hierarchy")" = cgroup2fs ]; then break; fi
  done
  group=$hierarchy$(sed -n 's/^0:://p' /proc/self/cgroup)/torus-machine-$$
  mkdir -p "$group"
  clean() {
    # Its processes take a moment to be gone.
    for _ in {1..50}; do
      find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
      [ -d "$group" ] || return 0
      sleep 0.1
    done
  }
  trap clean EXIT
  trap 'kill -KILL "$machine" 2>/dev/null; wait "$machine"; exit 143' TERM INT HUP
  (
    echo "$BASHPID" >"$group/cgroup.procs"
    exec setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --uts --ipc --cgroup --net "$0" "$folder" "$shared" inside
  ) &
  machine=$!
  wait "$machine"
  exit
fi

mount --make-rprivate /
mount -t tmpfs -o size=2g machine "$folder"
mkdir "$folder"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
root=$folder/root
mount -t proc proc "$root/proc"
# What it would set in the kernel is this machine's.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root"/dev/{pts,shm}
for node in null zero full random urandom tty; do
  touch "$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root/srv"
mount --bind "$shared" "$root/srv"
# Of what this machine starts at boot, nothing but systemd itself.
rm -rf "$root/etc/systemd/system"
mkdir -p "$root/etc/systemd/system"
rm -rf "$root/var/lib/torus" "$root/etc/torus"
ip link set lo up
cd "$root"
mkdir .before
pivot_root . .before
umount -l /.before
exec env -i container=torus PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=basic.target
