"""Screens as text, compared with what was kept: VMCONSOLE_KEEP=1 keeps what is seen now."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "snapshots"


def same_as_kept(name: str, screen: str) -> None:
    """Fails with both when they differ. Look at the difference, and at the screen, before it is kept."""
    path = FOLDER / f"{name}.txt"
    if os.environ.get("VMCONSOLE_KEEP"):
        path.write_text(screen + "\n")
    assert path.exists(), f"there is no {path}; look at the screen, then keep it:\n{screen}"
    assert screen + "\n" == path.read_text()
