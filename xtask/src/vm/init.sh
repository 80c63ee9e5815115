#!/bin/busybox sh
# The first process of a guest: sets it up, runs the tests of /plan one by one, and reports on the second serial port.
# Lines that begin with @steer are for xtask/src/vm/report.rs; the others are the tests' own.
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/ TMPDIR=/tmp STEER_BIN=/usr/bin/steer STEER_TESTS_PATIENCE=10
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec </dev/null >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 -onlcr
for module in /modules/*; do
    [ -e "$module" ] && { insmod "$module" || echo "cannot insert $module"; }
done
ip link set lo up
echo "@steer kernel $(uname -r)"
unsupported=
while read -r name needs <&3; do
    if [ "$needs" = migration ] && [ -n "$unsupported" ]; then
        echo "@steer unsupported $name $unsupported"
        continue
    fi
    echo "@steer begin $name"
    began=$(cut -d. -f1 /proc/uptime)
    timeout -s KILL 1200 "/tests/${name%%::*}" --exact "${name#*::}" --test-threads=1 --nocapture >/tmp/output 2>&1
    status=$?
    cat /tmp/output
    found=$(grep -o 'not supported: migration: .*' /tmp/output)
    [ -n "$found" ] && unsupported=${found#not supported: }
    echo
    echo "@steer end $name $status $(($(cut -d. -f1 /proc/uptime) - began))"
done 3</plan
echo "@steer done"
poweroff -f
