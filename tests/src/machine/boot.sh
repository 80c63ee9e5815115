#!/bin/sh
# Runs in new namespaces (mount, pid, uts, ipc, cgroup) and becomes their init: systemd, in a copy of the tree $1 that only these
# namespaces see and that ends with them. $2 is an empty directory.
set -eu
tree=$1
place=$2
mount --make-rprivate /
mount -t tmpfs tmpfs "$place"
mkdir "$place/upper" "$place/work" "$place/root"
mount -t overlay -o "lowerdir=$tree,upperdir=$place/upper,workdir=$place/work" overlay "$place/root"
cd "$place/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
# The kernel's modules are the host's.
ln -s /dev/null etc/systemd/system/systemd-modules-load.service
mkdir old
pivot_root . old
cd /
umount -l old
# With `container` systemd leaves the host's devices and clock alone.
exec env -i container=steer-tests PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --show-status=no
