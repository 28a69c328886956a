"""Whether the rig can run here, and what is to be done about it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lab.image import newest_kernel

MARK = "rig"
_NEEDED = {
    "libvirtd": "libvirt-daemon-system", "virtlogd": "libvirt-daemon-system", "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils", "qemu-nbd": "qemu-utils",
    "qemu-ga": "qemu-guest-agent", "busybox": "busybox-static", "cpio": "cpio", "gcc": "gcc libc6-dev",
    "modprobe": "kmod", "mkfs.ext4": "e2fsprogs", "debugfs": "e2fsprogs", "sshd": "openssh-server",
    "unshare": "util-linux", "nsenter": "util-linux", "pgrep": "procps", "flock": "util-linux",
    "socat": "socat", "perl": "perl",
    "mkfs.xfs": "xfsprogs", "mkfs.btrfs": "btrfs-progs", "ntfs-3g": "ntfs-3g", "mkfs.vfat": "dosfstools",
    "mcopy": "mtools", "mkfs.exfat": "exfatprogs", "mount.exfat-fuse": "exfat-fuse",
    "sfdisk": "fdisk", "lvcreate": "lvm2",
}  # fmt: skip
_KERNEL = "linux-image-cloud-amd64"


def problem() -> str:
    """Why the rig cannot run here, with the remedy; empty when it can."""
    if os.geteuid() != 0:
        return "the rig needs root: it starts libvirtd and QEMU's user must own disks"
    missing = {package for program, package in _NEEDED.items() if not shutil.which(program, path=_path())}
    if newest_kernel() is None:
        missing.add(_KERNEL)
    if not Path("/usr/lib/x86_64-linux-gnu/libc.a").exists():
        missing.add("libc6-dev")
    if missing:
        packages = " ".join(sorted(missing))
        return f"the rig needs: apt-get install --no-install-recommends {packages}"
    allowed = subprocess.run(
        ["unshare", "-m", "-u", "-p", "-f", "--mount-proc", "--", "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if allowed.returncode:
        return f"the rig needs namespaces of its own, as a privileged container has: {allowed.stderr.strip()}"
    return ""


def required() -> bool:
    """Whether a rig that cannot run is a failure: in continuous integration, or when told so."""
    return bool(os.environ.get("CI") or os.environ.get("VMCONSOLE_REQUIRE_RIG"))


def collection_gate(items: list[pytest.Item]) -> None:
    """Mark everything below tests/rig, and skip it with the reason when the rig cannot run here.

    Where the rig is required nothing is skipped: `check` then fails every test that uses it.
    """
    rig = [item for item in items if Path(__file__).parents[1] in item.path.parents]
    for item in rig:
        item.add_marker(MARK)
    reason = problem() if rig and not required() else ""
    for item in rig if reason else []:
        item.add_marker(pytest.mark.skip(reason=reason))


def check() -> None:
    """Fail where the rig is required and cannot run."""
    reason = problem()
    if reason:
        pytest.fail(reason, pytrace=False)


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
