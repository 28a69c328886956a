"""Names of what vmconsole leaves on a host, so that nothing foreign is ever touched.

One checkpoint per guest and repository: `vmconsole-<first 8 hex of the repository's id>-<run id>`.
Scratch files, overlays and sockets carry the run's id, so that two runs never meet.
"""

from __future__ import annotations

import re

PREFIX = "vmconsole-"
FALLBACK_FOLDER = "/var/lib/libvirt/images"
SOCKET_PATH_MAX = 107
"""Bytes that fit into sockaddr_un.sun_path with its final NUL (unix(7))."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


def plain(text: str) -> str:
    """Reduced to characters that no shell, XML or file system minds; at most 64 of them."""
    return _UNSAFE.sub("-", text).strip("-.")[:64] or "x"


def checkpoint_prefix(repository: str) -> str:
    """What the names of all our checkpoints for one repository begin with."""
    return f"{PREFIX}{plain(repository)[:8].lower()}-"


def checkpoint_name(repository: str, run: str) -> str:
    return checkpoint_prefix(repository) + plain(run)


def belongs_to(checkpoint: str, repository: str) -> bool:
    """Whether a checkpoint was made by vmconsole for this repository."""
    return checkpoint.startswith(checkpoint_prefix(repository))


def is_ours(name: str) -> bool:
    """Whether a checkpoint, file or socket was made by any vmconsole, for any repository."""
    return base_name(name).startswith(PREFIX)


def base_name(path: str) -> str:
    return path.rpartition("/")[2]


def scratch_path(folder: str, uuid: str, disk: str, run: str) -> str:
    return f"{folder.rstrip('/')}/{PREFIX}{uuid[:8]}-{plain(disk)}-{plain(run)}.scratch"


def overlay_path(folder: str, uuid: str, disk: str, run: str) -> str:
    return f"{folder.rstrip('/')}/{PREFIX}{uuid[:8]}-{plain(disk)}-{plain(run)}.overlay"


def socket_path(folder: str, uuid: str, run: str) -> str:
    """As short as is still unique: the path must fit into SOCKET_PATH_MAX bytes."""
    return f"{folder.rstrip('/')}/{PREFIX}{uuid[:8]}-{plain(run)[-12:]}.sock"
