"""How this process gets the memory for what it moves."""

from __future__ import annotations

import ctypes
from functools import cache

# mallopt(3), malloc.h. From these sizes on glibc hands memory back at once, by default 128 KiB.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
LARGEST_BUFFER = 32 * 1024 * 1024
"""The most glibc takes; a buffer of a chunk or of a read is far smaller."""
KEPT = 32 * 1024 * 1024
"""Bytes free at the end of a heap before some of it is handed back."""


@cache
def keep_buffers() -> bool:
    """Let freed buffers be used again instead of going back to the kernel. False where libc cannot.

    Otherwise every buffer of a megabyte comes as 256 new pages, one fault each, which all threads
    wait for: seen as a sixth of the time of a full backup.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is None:
        return False
    return bool(tune(_MMAP_THRESHOLD, LARGEST_BUFFER) and tune(_TRIM_THRESHOLD, KEPT))
