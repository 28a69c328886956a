"""What we and the parser's process tell each other: frames of a length, a letter and so many bytes.

`J` is a JSON document, `B` bytes. We send requests (`{"op": …}`); the parser answers with documents and bytes,
and asks for a piece of a disk (`{"ask": [disk, offset, length]}`) whenever it needs one, which we send as bytes.
"""

from __future__ import annotations

import json
import struct
from typing import Any

HEADER = struct.Struct(">IB")
DOCUMENT, BYTES = ord("J"), ord("B")
MAX_FRAME = 16 * 1024 * 1024
"""Bytes; more is never sent, so whoever announces more is not what we started."""


def frame(content: bytes | dict[str, Any]) -> bytes:
    """Ready to be sent. Letters that are no letters (PEP 383) survive JSON as escapes."""
    if isinstance(content, bytes):
        return HEADER.pack(len(content), BYTES) + content
    encoded = json.dumps(content, separators=(",", ":")).encode()
    return HEADER.pack(len(encoded), DOCUMENT) + encoded


def opened(header: bytes) -> tuple[int, int]:
    """Length and letter of what follows. Raises ValueError."""
    length, letter = HEADER.unpack(header)
    if length > MAX_FRAME or letter not in (DOCUMENT, BYTES):
        raise ValueError(f"a frame of {length} bytes, letter {letter}")
    return length, letter


def document(content: bytes) -> dict[str, Any]:
    """Raises ValueError."""
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("not a document")
    return found
