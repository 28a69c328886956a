#!/bin/sh
# Unpacks bookworm-backports' QEMU 10.0, with the libraries it needs and Debian 12 lacks, into a cache
# folder; nothing is installed. Says the path of the wrapper that runs it, or why there is none.
#   sh tests/rig/pve/qemu10.sh [FOLDER]
# VMCONSOLE_QEMU10 names another such program to use instead (see pve/qemu.py).
set -eu
folder=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/vmconsole/qemu-10.0}
program=$folder/qemu-system-x86_64
[ ! -x "$program" ] || { echo "$program"; exit 0; }
arch=$(dpkg --print-architecture)
[ "$arch" = amd64 ] || { echo "QEMU 10 is unpacked on amd64 only" >&2; exit 1; }
umask 022
mkdir -p "$(dirname "$folder")"
work=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf -- "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/root"
# The mirror is the one that this machine uses.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' 'Codename: bookworm' | head -n 1)
[ -n "$mirror" ] || { echo "no mirror of Debian bookworm is configured for apt" >&2; exit 1; }
for suite in bookworm bookworm-backports; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
done >"$work/sources.list"
apt() {
    apt-get -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$work/lists" -o Dir::Cache::Archives="$work/archives" \
        -o Dir::Cache::pkgcache="$work/pkgcache.bin" -o Dir::Cache::srcpkgcache="$work/srcpkgcache.bin" \
        -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o APT::Install-Recommends=false "$@"
}
apt update >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
# What would have to be installed for it: those packages are fetched and unpacked beside each other.
apt -t bookworm-backports -y --download-only --reinstall --allow-downgrades install qemu-system-x86 qemu-system-common qemu-system-data seabios qemu-utils \
    >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
for package in "$work"/archives/*.deb; do dpkg-deb -x "$package" "$work/root"; done
rm -rf -- "$work/lists" "$work/archives" "$work"/*.bin
for name in qemu-system-x86_64 qemu-img qemu-nbd; do
    cat >"$work/$name" <<WRAPPER
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/root
export LD_LIBRARY_PATH="\$root/usr/lib/x86_64-linux-gnu:\$root/lib/x86_64-linux-gnu"
export QEMU_MODULE_DIR="\$root/usr/lib/x86_64-linux-gnu/qemu"
WRAPPER
done
echo 'exec "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" "$@"' \
    >>"$work/qemu-system-x86_64"
echo 'exec "$root/usr/bin/qemu-img" "$@"' >>"$work/qemu-img"
echo 'exec "$root/usr/bin/qemu-nbd" "$@"' >>"$work/qemu-nbd"
chmod 755 "$work"/qemu-*
"$work/qemu-system-x86_64" --version >"$work/version"
trap - EXIT
rm -f -- "$work/log" "$work/sources.list"
mv -T -- "$work" "$folder" 2>/dev/null || { [ -x "$program" ] && rm -rf -- "$work"; }
echo "$program"
