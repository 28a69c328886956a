"""Inventories as JSON and back. A cache: what is not understood is forgotten, never an error."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from enum import Enum
from typing import Any

from vmconsole.model.guest import (
    Disk,
    Guest,
    GuestKind,
    GuestState,
    HostInventory,
    HostKind,
    HostLoad,
    Node,
    Storage,
    Tracking,
)


def inventory_text(inventory: HostInventory) -> str:
    return json.dumps(asdict(inventory), default=_value, separators=(",", ":"))


def _value(item: object) -> object:
    if isinstance(item, Enum):
        return item.value
    raise TypeError(f"{type(item).__name__} has no JSON form")


def inventory_from(text: str) -> HostInventory | None:
    """None when a newer or older version wrote something else."""
    try:
        document = json.loads(text)
        known = _known(HostInventory, document)
        known["kind"] = HostKind(known["kind"])
        known["load"] = HostLoad(**_known(HostLoad, known["load"]))
        known["guests"] = tuple(_guest(item) for item in known["guests"])
        known["nodes"] = tuple(_node(item) for item in known.get("nodes", ()))
        known["storages"] = tuple(_storage(item) for item in known.get("storages", ()))
        known["warnings"] = tuple(known.get("warnings", ()))
        return HostInventory(**known)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _guest(document: Any) -> Guest:
    known = _known(Guest, document)
    known["kind"] = GuestKind(known["kind"])
    known["state"] = GuestState(known["state"])
    known["tags"] = tuple(known["tags"])
    known["warnings"] = tuple(known["warnings"])
    known["disks"] = tuple(_disk(item) for item in known["disks"])
    return Guest(**known)


def _node(document: Any) -> Node:
    known = _known(Node, document)
    return Node(**known | {"load": HostLoad(**_known(HostLoad, known["load"]))})


def _storage(document: Any) -> Storage:
    known = _known(Storage, document)
    return Storage(**known | {"content": tuple(known["content"])})


def _disk(document: Any) -> Disk:
    known = _known(Disk, document)
    known["tracking"] = Tracking(known["tracking"])
    return Disk(**known)


def _known(kind: type, document: dict[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(kind)}
    return {key: value for key, value in document.items() if key in names}
