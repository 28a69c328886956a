#!/bin/sh
# The first process of a lab host: host.sh ROOT NAME, in fresh mount, process and host-name namespaces.
# It lives until its standard input ends; the kernel then ends everything else in the namespace. It must
# stay a shell that waits for a child, since that is what reaps orphaned daemons.
set -eu
root=$1 name=$2
mount --make-rprivate /
# As on a machine of its own; what is left in these is somebody's omission.
mount -t tmpfs -o mode=0755 lab /run
mkdir -p /run/libvirt /run/sshd /run/lock
case $root in /tmp/*) ;; *) mount -t tmpfs -o mode=1777 lab /tmp ;; esac

for file in passwd group shadow; do mount --bind "$root/accounts/$file" "/etc/$file"; done
for pair in etc:/etc/libvirt varlib:/var/lib/libvirt run:/run/libvirt varlog:/var/log/libvirt varcache:/var/cache/libvirt; do
    mkdir -p "${pair#*:}"
    mount --bind "$root/${pair%%:*}" "${pair#*:}"
done
mkdir -p /etc/libvirt/qemu /etc/libvirt/secrets /var/log/libvirt/qemu /var/cache/libvirt/qemu /var/lib/libvirt/qemu
mkdir -m 0711 -p /var/lib/libvirt/images /var/lib/libvirt/boot
chown libvirt-qemu:libvirt-qemu /var/lib/libvirt/qemu
chmod 0750 /var/lib/libvirt/qemu
hostname "$name"
cd /
virtlogd -d -p "$root/virtlogd.pid"
libvirtd -d -p "$root/libvirtd.pid"
echo up
cat >/dev/null
