"""The house stays in order: file sizes, imports that are really lazy, one test file per module name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vmconsole"


def test_no_module_is_longer_than_400_lines():
    sizes = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    too_long = {str(path.relative_to(ROOT)): lines for path, lines in sizes.items() if lines > 400}
    assert not too_long, "split by responsibility, not by size"


def test_every_room_says_what_it_holds_and_nothing_else():
    for path in PACKAGE.rglob("__init__.py"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path} has no docstring"
        if path.parent == PACKAGE / "interfaces":  # what the core needs, in one place, from several files
            assert all(isinstance(node, ast.ImportFrom) for node in tree.body[1:])
        elif path.parent != PACKAGE:
            assert len(tree.body) == 1, f"{path} holds more than its docstring"


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("vmconsole.cli.main", {"textual", "paramiko", "sqlalchemy", "borg", "requests", "apprise"}),
        (
            "vmconsole.wiring.services",
            {"textual", "rich", "paramiko", "sqlalchemy", "borg", "requests", "apprise"},
        ),
        (
            "vmconsole.runs.runner",
            {"textual", "rich", "paramiko", "sqlalchemy", "borg", "requests", "apprise"},
        ),
        (
            "vmconsole.config.load",
            {"textual", "rich", "paramiko", "sqlalchemy", "borg", "requests", "apprise"},
        ),
        (
            "vmconsole.remote.local",
            {"textual", "rich", "paramiko", "sqlalchemy", "borg", "requests", "apprise"},
        ),
        (
            "vmconsole.hypervisors.proxmox.host",
            {"textual", "rich", "paramiko", "sqlalchemy", "borg", "requests", "apprise"},
        ),
        (
            "vmconsole.disks.nbd.client",
            {"textual", "rich", "paramiko", "sqlalchemy", "borg", "requests", "apprise"},
        ),
    ],
)
def test_heavy_libraries_stay_out(module, unwanted):
    # import-linter cannot tell a deferred import from one at module scope; a clean interpreter can.
    code = f"import sys, {module}; print(*sorted({unwanted!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_import_contracts_hold():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_python_files_have_one_basename_in_the_test_tree():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)), "pytest imports test modules by base name"
