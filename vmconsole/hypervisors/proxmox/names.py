"""Names of what vmconsole leaves in QEMU and on a node, so that nothing foreign is ever touched.

Everything in QEMU that is ours begins with `vmc-`, but for the one bitmap per repository that
`backup-access-setup` keeps under the target's own name.
"""

from __future__ import annotations

import re

PREFIX = "vmc-"
TARGET_PREFIX = "vmconsole-"

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")


def plain(text: str) -> str:
    """Reduced to characters that no shell, JSON path or file system minds; at most 64 of them."""
    return _UNSAFE.sub("-", text).strip("-.")[:64] or "x"


def target(repository: str) -> str:
    """The target-id for backup-access-setup, and so the name of its bitmap. repository: id, hex."""
    return TARGET_PREFIX + plain(repository)[:12].lower()


def bitmap_prefix(repository: str) -> str:
    return f"{PREFIX}{plain(repository)[:8].lower()}-"


def bitmap(repository: str, run: str) -> str:
    """The bitmap that begins at the cut of this run (see proof.py for what it means per method)."""
    return bitmap_prefix(repository) + plain(run)


def is_ours(name: str) -> bool:
    """Whether a node, job, export or bitmap in QEMU was made by any vmconsole."""
    return name.startswith((PREFIX, TARGET_PREFIX))
