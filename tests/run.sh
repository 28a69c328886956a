#!/bin/sh
# Installs what the tests need and runs all of them. As root it also installs the Debian packages for
# the real rig (libvirt, QEMU, sshd); not as root it says what is skipped, and why.
#   sh tests/run.sh [PYTEST-ARGUMENTS]
set -eu
checkout=$(cd "$(dirname "$0")/.." && pwd)
. "$checkout/packaging/bootstrap.sh"
bootstrap "[dev]"
cd "$checkout"
RIG_PACKAGES="libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils busybox-static cpio kmod
    qemu-guest-agent linux-image-cloud-$(dpkg --print-architecture 2>/dev/null || echo amd64) openssh-server openssh-client
    e2fsprogs procps util-linux iproute2 gcc libc6-dev socat perl systemd tmux
    xfsprogs btrfs-progs ntfs-3g dosfstools mtools exfatprogs exfat-fuse fdisk lvm2"
if is_root && has_apt; then
    # shellcheck disable=SC2086
    install_packages $RIG_PACKAGES
    # For guests as on Proxmox VE 9; unpacked into the cache, not installed.
    sh tests/rig/pve/qemu10.sh >"$cache/qemu10.log" 2>&1 || { tail -n 5 "$cache/qemu10.log" >&2
        die "The rig's second QEMU cannot be unpacked." "It is in Debian's bookworm-backports; or let VMCONSOLE_QEMU10 name one."; }
else
    say "not root: tests of the real libvirt, QEMU and sshd rig are skipped; run as root to have them"
fi
bin=$venv/bin
# The tests run the checkout, not the copy that was installed.
export PYTHONPATH="$checkout"
export PATH="$bin:$PATH"
if [ $# -gt 0 ]; then
    exec "$bin/python" -m pytest "$@"
fi
say "lint, types, import contracts"
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/lint-imports"
say "tests"
# Two processors, three at a time: many tests wait for a guest. A file's tests stay together, for they share one.
exec "$bin/python" -m pytest -n 3 --dist loadfile --durations=10
