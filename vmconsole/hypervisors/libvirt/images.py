"""What qemu-img says about an image file. Hostile input: the files belong to guests' owners."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.libvirt.facts import ImageBitmap

MAX_CHAIN = 256
MAX_SIZE = 2**60


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image and its backing files. Sizes in bytes; allocated counts all layers."""

    format: str
    size: int
    allocated: int
    compat: str = ""
    chain: tuple[str, ...] = ()
    bitmaps: tuple[ImageBitmap, ...] = ()
    internal_snapshots: int = 0


def parse_info(text: str) -> ImageFacts:
    """Read `qemu-img info --output=json --backing-chain`. Raises ProtocolError."""
    try:
        document = json.loads(text)
        layers = document if isinstance(document, list) else [document]
        if not layers or len(layers) > MAX_CHAIN:
            raise ProtocolError(f"qemu-img lists {len(layers)} layers of one image.")
        top: Mapping[str, Any] = layers[0]
        size = int(top["virtual-size"])
        if not 0 <= size <= MAX_SIZE:
            raise ProtocolError(f"qemu-img reports an impossible size of {size} bytes.")
        special = (top.get("format-specific") or {}).get("data") or {}
        return ImageFacts(
            format=str(top["format"]),
            size=size,
            allocated=sum(max(0, int(layer.get("actual-size", 0))) for layer in layers),
            compat=str(special.get("compat", "")),
            chain=tuple(str(layer["filename"]) for layer in layers[1:]),
            bitmaps=tuple(_bitmap(item) for item in special.get("bitmaps") or ()),
            internal_snapshots=len(top.get("snapshots") or ()),
        )
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"The answer of qemu-img cannot be read: {error!r}.") from error


def _bitmap(item: Mapping[str, Any]) -> ImageBitmap:
    flags = [str(flag) for flag in item.get("flags") or ()]
    return ImageBitmap(
        name=str(item["name"]),
        in_use="in-use" in flags,
        inconsistent=bool(item.get("inconsistent", False)),
        granularity=int(item.get("granularity", 65536)),
    )
