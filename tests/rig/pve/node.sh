#!/bin/sh
# The first process of a lab node: node.sh ROOT NAME SHARED KEPT…, in fresh mount, process and host-name
# namespaces. ROOT: the node's own folder. SHARED: the cluster's. KEPT: folders that must stay even though the
# node has a /tmp, a /srv and a /mnt of its own. It lives until its standard input ends; the kernel then
# ends everything else in the namespace. It must stay a shell that waits for a child: that reaps orphans.
set -eu
root=$1 name=$2 shared=$3
shift 3
mount --make-rprivate /
mount -t tmpfs -o mode=0755 lab /run
mkdir -p /run/sshd /run/lock /run/qemu-server /run/lock/qemu-server
own() { # FOLDER MODE KEPT…: an empty one of the node's own, but for what is kept of it
    folder=$1 mode=$2
    shift 2
    mkdir /run/own
    mount -t tmpfs -o "mode=$mode" lab /run/own
    for kept in "$@"; do
        case $kept in "$folder"/*) mkdir -p "/run/own${kept#"$folder"}" && mount --bind "$kept" "/run/own${kept#"$folder"}" ;; esac
    done
    mount --rbind /run/own "$folder"
    umount -R /run/own
    rmdir /run/own
}
own /tmp 1777 "$root" "$shared" "$@"
own /srv 0755 "$root" "$shared" "$@"
own /mnt 0755 "$root" "$shared" "$@"
mkdir -p /etc/pve /var/lib/vz /srv/fast /mnt/pve/shared
mount --bind "$shared/pve" /etc/pve
mount --bind "$root/vz" /var/lib/vz
mount --bind "$root/fast" /srv/fast
mount --bind "$shared/storage" /mnt/pve/shared
# In perl's search path, and in nobody else's.
mount --bind "$shared/perl" /etc/perl
mkdir -p /run/pve-rig
ln -s "/etc/pve/nodes/$name" /run/pve-rig/local
hostname "$name"
cd /
echo up
cat >/dev/null
