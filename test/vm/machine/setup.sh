#!/bin/bash
# usage: setup.sh uml|qemu
# Builds the test machine (kernel, root.img; for qemu boot.cpio too) from Debian packages into $TORUS_VM_DIR. Installs nothing on
# the host. Needs root (chroot), apt, dpkg, tar, and a Debian mirror on the first run.
#   uml   User Mode Linux: Debian's kernel built as a program, which runs the guest's programs at the host's own speed
#   qemu  Debian's stock kernel, for qemu
set -euo pipefail
MACHINE=${1:?uml or qemu}
VM=${TORUS_VM_DIR:?is where the machine is built}; mkdir -p "$VM"; VM=$(cd "$VM" && pwd)
B=$VM/build; mkdir -p "$B/debs/partial"; cd "$B"
PKGS="libc-bin busybox-static bash coreutils diffutils mount util-linux iproute2 kmod e2fsprogs xfsprogs nbd-client aoetools fio strace socat xz-utils"
PROGS="bash ls cat cp mv rm mkdir chmod dd sha256sum md5sum stat sync timeout truncate head tail seq sleep date df env shuf cmp diff
  mount umount blkid lsblk losetup findmnt blockdev blkdiscard fstrim wipefs dmesg setsid flock fsck ip ss tc
  kmod modprobe insmod rmmod lsmod modinfo depmod mke2fs mkfs.ext4 e2fsck fsck.ext4 resize2fs tune2fs dumpe2fs
  mkfs.xfs fsck.xfs xfs_repair xfs_growfs xfs_io nbd-client aoe-discover aoe-stat aoe-interfaces aoe-revalidate aoe-flush aoe-version fio strace socat"
MODS="nbd aoe ext4 xfs loop veth sch_netem"
apt-cache show user-mode-linux >/dev/null 2>&1 || apt-get -qq update
case $MACHINE in
  uml) KPKG=user-mode-linux; PKGS="$PKGS $KPKG" ;;
  qemu) KPKG=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/{print $2; exit}')
    MODS="$MODS virtio_pci virtio_net virtio_blk virtio_rng 9p 9pnet_virtio crc32c_generic crc32c_intel
      uio target_core_mod target_core_user target_core_file tcm_loop iscsi_tcp nvme_tcp nvmet_tcp sd_mod dm_mod dm_flakey" ;;
  *) echo "setup: there is no machine \"$MACHINE\"" >&2; exit 2 ;;
esac

# 1. download: the kernel alone, and the tools with all they depend on (resolved as if nothing were installed)
if [ "$MACHINE" = qemu ]; then ls ${KPKG}_*.deb >/dev/null 2>&1 || apt-get -qq -o APT::Sandbox::User=root download "$KPKG"; fi
: >empty.status
apt-get -qq -o Dir::State::status="$B/empty.status" -o Dir::Cache::archives="$B/debs" -o Debug::NoLocking=1 \
  -o APT::Sandbox::User=root install -y --no-install-recommends --download-only $PKGS >/dev/null

# 2. unpack; take the ELF kernel out of the bzImage (booted through PVH it saves seconds of emulated xz)
rm -rf kernel stage init.d root; mkdir -p kernel stage init.d root/{bin,etc,proc,sys,dev,tmp,run,mnt,root,srv,data,var,lib/modules,usr}
for d in debs/*.deb; do
  dpkg-deb --fsys-tarfile "$d" | tar -C stage -x --exclude='./usr/share/*/*' --exclude='*python3*' --exclude='*perl*'
done
if [ "$MACHINE" = uml ]; then
  KV=$(ls stage/usr/lib/uml/modules)
  mv stage/usr/bin/linux.uml "$VM/linux"
  mkdir -p kernel/lib; mv stage/usr/lib/uml/modules kernel/lib/modules
else
  dpkg -x "$(ls -t ${KPKG}_*.deb | head -1)" kernel
  KV=${KPKG#linux-image-}
  Z=kernel/boot/vmlinuz-$KV; le() { od -An -t"u$2" -j"$1" -N"$2" "$Z" | tr -d ' '; }
  dd if="$Z" iflag=skip_bytes,count_bytes skip=$(( ($(le 497 1) + 1) * 512 + $(le 584 4) )) count=$(( $(le 588 4) - 4 )) \
    bs=1M status=none | chroot stage /usr/bin/xz -dc >"$VM/vmlinux"
fi

# 3. root file system: the listed programs, the libraries they load (and glibc's own, for other programs), the modules
for l in sbin usr/bin usr/sbin; do ln -s /bin root/$l; done
chroot stage /sbin/ldconfig
for p in $PROGS; do
  f=$(cd stage; for d in bin sbin usr/bin usr/sbin; do [ ! -e $d/$p ] && [ ! -L $d/$p ] || { echo $d/$p; break; }; done)
  [ -n "$f" ] || { echo "setup: no program $p" >&2; exit 1; }
  cp -a "stage/$f" root/bin/
  chroot stage /lib64/ld-linux-x86-64.so.2 --list "/$f" 2>/dev/null || true
done | awk '$3 ~ /^\// {print "." $3} $1 ~ /^\// {print "." $1}' | sort -u >libs
(cd stage && cp -L --parents $(cat ../libs) ./lib/x86_64-linux-gnu/lib{dl,pthread,rt}.so.? \
  ../root/ 2>/dev/null)
cp stage/bin/busybox root/bin/
for a in $(stage/bin/busybox --list); do [ -e root/bin/$a ] || [ -L root/bin/$a ] || ln -s busybox root/bin/$a; done
cp stage/etc/mke2fs.conf root/etc/; ln -s /proc/mounts root/etc/mtab
echo 'root:x:0:0::/root:/bin/bash' >root/etc/passwd; echo '127.0.0.1 localhost' >root/etc/hosts
mv kernel/lib/modules stage/lib/; chroot stage /sbin/depmod "$KV"
# Drivers that are built in have no file.
(cd stage && cp --parents $(for m in $MODS; do chroot . /sbin/modprobe -S "$KV" --show-depends $m 2>/dev/null || true; done |
  awk '$1 == "insmod" {print "." $2}' | sort -u) ./lib/modules/$KV/modules.{builtin,builtin.modinfo,order} ../root/)
chroot root /bin/depmod "$KV"

# The first program: /mnt is the folder shared with the host, /run/vm the harness's, which holds the script and gets its status.
cat >root/vm-start <<'START'
mkdir -p /dev/pts /dev/shm /run/vm; mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm; ln -sf /proc/self/fd /dev/fd
ip link set lo up
if [ -n "$vmwork" ]; then
  mount -t hostfs -o "$vmwork" none /run/vm; mount -t hostfs -o "$vmshare" none /mnt
else
  mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none work /run/vm
  mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose share /mnt
fi
echo "vm: up after $(cut -d' ' -f1 /proc/uptime) s"
bash /run/vm/script; rc=$?
echo $rc >/run/vm/status.new; sync /run/vm/status.new; mv /run/vm/status.new /run/vm/status
# After a failure a device may be there that nobody serves: the end does not wait for it, as "poweroff" without -n would.
sync & for _ in $(seq 100); do [ -d /proc/$! ] || break; sleep 0.1; done
busybox poweroff -n -f
START
cat >root/vm-init <<'INIT'
#!/bin/busybox sh
export PATH=/bin HOME=/root TERM=linux
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmp /tmp; mount -t tmpfs run /run
[ -e /dev/null ] || mount -t devtmpfs dev /dev
exec /bin/bash /vm-start
INIT
chmod +x root/vm-init
mv root stage/root.d; truncate -s 256M stage/root.img; touch stage/etc/mtab
chroot stage /sbin/mke2fs -q -t ext4 -O ^has_journal -m 0 -d /root.d /root.img; mv stage/root.img "$VM/"

# 4. for qemu a small initramfs, which loads the first drivers
if [ "$MACHINE" = qemu ]; then
  mkdir -p init.d/{bin,dev,proc,sys,new,mod}; cp stage/bin/busybox init.d/bin/
  for a in $(stage/bin/busybox --list); do [ $a = busybox ] || ln -s busybox init.d/bin/$a; done
  for m in virtio_pci virtio_blk crc32c_intel ext4 virtio_net virtio_rng 9pnet_virtio 9p; do
    chroot stage /sbin/modprobe -S "$KV" --show-depends $m
  done | awk '$1 == "insmod" && !s[$2]++ {print $2}' >order
  for f in $(cat order); do cp "stage$f" init.d/mod/; done; sed 's#.*/##' order >init.d/order
  cat >init.d/init <<'INIT'
#!/bin/busybox sh
export PATH=/bin HOME=/root TERM=linux
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS0 2>&1; stty -F /dev/ttyS0 -opost
while read -r m; do insmod /mod/$m; done </order
mount -t ext4 -o noatime /dev/vda /new; mount -t tmpfs tmp /new/tmp; mount -t tmpfs run /new/run
for d in proc sys dev; do mount --move /$d /new/$d; done
exec switch_root /new /bin/bash /vm-start
INIT
  chmod +x init.d/init
  (cd init.d && find . | ../stage/bin/busybox cpio -o -H newc 2>/dev/null) >"$VM/boot.cpio"
fi
rm -rf kernel stage init.d
