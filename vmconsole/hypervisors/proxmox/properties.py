"""Property strings, sizes, booleans and tags, as Proxmox writes them into its configuration files."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

MAX_SIZE = 2**60

_SIZE = re.compile(r"(\d{1,19})(?:\.(\d{1,6})\d*)?([KMGT])?")
_UNITS = {None: 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TRUE = frozenset({"1", "on", "yes", "true"})
_FALSE = frozenset({"0", "off", "no", "false"})


def parse_properties(value: str, default: str = "") -> dict[str, str]:
    """`a=1,b=2` in order; an item without `=` is the default key's value, or stands for itself.

    Of a key that is there twice the first counts; Proxmox refuses such a value altogether.
    """
    found: dict[str, str] = {}
    for item in map(str.strip, value.split(",")):
        name, equals, text = item.partition("=")
        if name and equals and text:
            found.setdefault(name, text)
        elif item and default and default not in found and not equals:
            found[default] = item
        elif item:
            found.setdefault(item, "")
    return found


def print_properties(values: Mapping[str, str], default: str = "") -> str:
    """The reverse; the default key's value comes first and without its name."""
    first = [values[default]] if values.get(default) else []
    rest = [f"{key}={value}" if value else key for key, value in values.items() if key != default]
    return ",".join([*first, *rest])


def parse_size(text: str) -> int:
    """`32G`, `528K`, `1.5T` or bytes; 0 when it is none of these, or more than there can be."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return 0
    unit = _UNITS[match[3]]
    size = int(match[1]) * unit
    if match[2]:
        size += int(match[2]) * unit // 10 ** len(match[2])
    return size if size <= MAX_SIZE else 0


def boolean(text: str, *, default: bool = False) -> bool:
    """1, on, yes, true and their opposites, in any case; anything else is the default."""
    word = text.strip().lower()
    return word in _TRUE if word in _TRUE | _FALSE else default


def split_tags(text: str) -> tuple[str, ...]:
    """Separated by `;`, `,` or blanks, each once, in their order. Nothing unprintable is a tag."""
    words = (word for word in re.split(r"[;,\s\0]+", whole(text)) if word)
    return tuple(dict.fromkeys(word for word in words if word.isprintable()))


def split_list(text: str) -> tuple[str, ...]:
    """Volumes and the like, separated as tags are."""
    return tuple(word for word in re.split(r"[;,\s\0]+", text) if word)


def whole(text: str) -> str:
    """Text from a file, with what is no UTF-8 replaced, so that it can be stored and shown."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def unbase64(text: str) -> str:
    """As it stands when it is not base64."""
    try:
        return base64.b64decode(text, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return text
