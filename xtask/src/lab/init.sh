#!/bin/sh
# The guest's first process: makes the host's files visible, runs what the host left in
# /results/job, and powers off. Everything written stays in the guest's memory but /results.

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
# The last has a device file that is there only when it is loaded; all others come when called for.
modprobe -q virtio_pci # built into newer kernels
modprobe -a 9pnet_virtio 9p overlay igb igbvf tun

share=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "ro,cache=loose,$share" host /host
mount -t 9p -o "rw,cache=none,$share" results /results

mount -t tmpfs writes /writes
mkdir /writes/upper /writes/work
mount -t overlay -o lowerdir=/host,upperdir=/writes/upper,workdir=/writes/work root /root

cd /root || poweroff -f
mkdir -p proc sys dev run results lib/modules
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mount -t tmpfs run run
mkdir -p dev/pts dev/shm run/lock
mount -t devpts devpts dev/pts
mount -t tmpfs shm dev/shm
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tracefs trace sys/kernel/tracing
mount -t debugfs debug sys/kernel/debug
mount -o bind /results results
mount -o bind /lib/modules lib/modules
ln -s /proc/self/fd dev/fd
ip link set lo up
echo lab >/proc/sys/kernel/hostname

# Over the first root, which this script keeps to: whoever enters the mount namespace shall find
# the host's files.
mount -o move . /

cut -d' ' -f1 /proc/uptime >/results/booted
if [ -e /results/interactive ]; then
    setsid -c chroot . /bin/bash /results/job
else
    chroot . /bin/bash /results/job >/results/output 2>&1
fi
echo $? >/results/status
dmesg >/results/kernel.log
poweroff -f
