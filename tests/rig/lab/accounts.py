"""Logins of a lab host besides root: one with the rights a backup needs, one with too few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

OPERATOR = "lab-operator"
"""Of the groups libvirt and libvirt-qemu: may use virsh and the NBD sockets."""
VIEWER = "lab-viewer"
"""Of the group libvirt only: may use virsh, not the sockets that QEMU opens."""

_GROUPS: Mapping[str, Sequence[str]] = {OPERATOR: ("libvirt", "libvirt-qemu"), VIEWER: ("libvirt",)}
_FIRST_ID = 64901


def write_accounts(folder: Path) -> None:
    """passwd, group and shadow of this machine with the logins added, to be mounted over its own."""
    folder.mkdir(exist_ok=True)
    numbered = list(enumerate(_GROUPS, _FIRST_ID))
    passwd = [f"{name}:x:{number}:{number}::/:/bin/sh" for number, name in numbered]
    own_groups = [f"{name}:x:{number}:" for number, name in numbered]
    shadow = [f"{name}:*:20000::::::" for _, name in numbered]
    groups = [_with_members(line) for line in _lines("group")]
    _write(folder / "passwd", [*_lines("passwd"), *passwd], 0o644)
    _write(folder / "group", [*groups, *own_groups], 0o644)
    _write(folder / "shadow", [*_lines("shadow"), *shadow], 0o600)


def _with_members(line: str) -> str:
    group, _, members = line.split(":", 1)[0], *line.rpartition(":")[1:]
    added = [name for name, groups in _GROUPS.items() if group in groups]
    return line.rpartition(":")[0] + ":" + ",".join([*filter(None, members.split(",")), *added])


def _lines(name: str) -> list[str]:
    return Path("/etc", name).read_text().splitlines()


def _write(path: Path, lines: list[str], mode: int) -> None:
    path.touch(mode=mode)
    path.write_text("".join(f"{line}\n" for line in lines))
