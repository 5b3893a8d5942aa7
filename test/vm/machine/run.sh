#!/bin/bash
# usage: run.sh [-t SECONDS] [-s DIR] [-n TAP] [-d IMAGE]... [-m MIB] [-c CPUS] [-k KERNEL-ARGS] SCRIPT [ARG...]
# Boots the test machine of $TORUS_VM_DIR, runs SCRIPT with bash in it, prints the guest's console and exits with SCRIPT's status;
# 124: timed out (-t, default 120), 125: the guest ended without one (panic, qemu error).
#   -s DIR    host folder DIR read-write at /mnt in the guest (9p)       -d IMAGE  raw image as /dev/vdb, vdc, ...
#   -n TAP    attach eth1 to an existing tap device (raw Ethernet, AoE)  ACCEL, CPU, QEMU_ARGS  environment: for qemu
# In the guest the host's 127.0.0.1 (that of the network namespace run.sh was started in) is 10.0.2.2.
set -uo pipefail
VM=$(cd "${TORUS_VM_DIR:?is where the machine was built}" && pwd); T=120 MEM=1024 SMP=1 KARGS="quiet" X=()
while getopts t:s:n:d:m:c:k: o; do case $o in
  t) T=$OPTARG;; m) MEM=$OPTARG;; c) SMP=$OPTARG;; k) KARGS=$OPTARG;;
  s) X+=(-fsdev "local,id=s0,path=$OPTARG,security_model=none" -device virtio-9p-pci,fsdev=s0,mount_tag=share
     -fw_cfg name=opt/vm.share,string=1);;
  n) X+=(-netdev "tap,id=n1,ifname=$OPTARG,script=no,downscript=no" -device virtio-net-pci,netdev=n1,romfile=);;
  d) X+=(-drive "if=virtio,format=raw,cache=none,file=$OPTARG");;
  *) exit 2;; esac; done
shift $((OPTIND - 1)); [ -r "${1-}" ] || { sed -n '2,8s/^# //p' "$0" >&2; exit 2; }
[ -n "${ACCEL-}" ] || { grep -qwE "vmx|svm" /proc/cpuinfo && [ -w /dev/kvm ] && ACCEL=kvm || ACCEL=tcg; }
W=$(mktemp -d "$VM/run.XXXXXX") Q=; trap 'kill -KILL $Q 2>/dev/null; rm -rf "$W"' EXIT; trap 'exit 143' INT TERM HUP
S=$1; shift; { printf 'set --'; [ $# = 0 ] || printf ' %q' "$@"; echo; cat "$S"; } >"$W/script"
D="setpriv --pdeathsig KILL"  # qemu never outlives timeout, nor timeout this script
$D timeout --foreground -s KILL "$T" $D qemu-system-x86_64 -M pc -accel "$ACCEL" -cpu "${CPU:-max}" -smp "$SMP" -m "$MEM" \
  -nodefaults -no-user-config -display none -vga none -no-reboot -serial stdio -serial "file:$W/status" \
  -kernel "$VM/vmlinux" -initrd "$VM/boot.cpio" -drive "if=virtio,format=raw,snapshot=on,file=$VM/root.img" \
  -append "console=ttyS0 panic=-1 mitigations=off apparmor=0 audit=0 net.ifnames=0 cryptomgr.notests $KARGS" \
  -netdev user,id=n0,ipv6=off -device virtio-net-pci,netdev=n0,romfile= \
  -fw_cfg "name=opt/vm.script,file=$W/script" ${X[@]+"${X[@]}"} ${QEMU_ARGS-} </dev/null &
Q=$!; wait $Q; rc=$?; Q=
[ $rc != 137 ] || { echo "run.sh: timed out after ${T}s" >&2; exit 124; }
st=$(tr -d '\r\n' <"$W/status" 2>/dev/null); [[ $st =~ ^[0-9]+$ ]] || { echo "run.sh: no exit status (qemu: $rc)" >&2; exit 125; }
exit "$st"
