"""The README's pictures can be drawn again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MAKE = Path(__file__).parents[2] / "screenshots" / "make.py"


def test_the_pictures_are_drawn_from_the_demo(tmp_path):
    subprocess.run(
        [sys.executable, MAKE, "--to", tmp_path, "guests", "restore"], check=True, capture_output=True
    )
    assert "files" in (tmp_path / "guests.svg").read_text()
    assert "Restore" in (tmp_path / "restore.svg").read_text()


def test_the_readme_shows_pictures_that_are_there():
    import re

    folder = MAKE.parent.parent
    named = re.findall(r"\]\((screenshots/[^)]+)\)", (folder / "README.md").read_text())
    assert named
    assert [name for name in named if not (folder / name).exists()] == []
