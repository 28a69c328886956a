"""Fixtures of the demo's tests: e2fsprogs where they are, an open shop, its guests' connections."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmconsole.demo.shop import Shop
from vmconsole.remote.ssh import SshMachine
from vmconsole.remote.ssh_settings import SshSettings

SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def tool(name: str) -> str:
    found = shutil.which(name, path=SEARCH)
    if found is None:
        pytest.skip(f"{name} (e2fsprogs) is not installed")
    return found


@pytest.fixture
def fsck() -> Callable[[Path, int], None]:
    """e2fsck -fn calls the file system at that byte of the image clean."""
    program = tool("e2fsck")

    def check(image: Path, start: int = 0) -> None:
        where = f"{image}?offset={start}" if start else str(image)
        done = subprocess.run([program, "-fn", where], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return check


@pytest.fixture
def dump(tmp_path: Path) -> Callable[[Path, str], bytes]:
    """A file's content as debugfs reads it from an image."""
    program = tool("debugfs")
    target = tmp_path / "dumped"

    def read(image: Path, path: str) -> bytes:
        target.unlink(missing_ok=True)
        done = subprocess.run(
            [program, "-f", "-", str(image)],
            input=f'dump "{path}" {target}\n'.encode(),
            capture_output=True,
            check=False,
        )
        assert target.exists(), done.stderr
        return target.read_bytes()

    return read


@pytest.fixture
def stat(dump: object) -> Callable[[Path, str], str]:
    """What debugfs says of an inode."""
    program = tool("debugfs")

    def look(image: Path, path: str) -> str:
        done = subprocess.run(
            [program, "-f", "-", str(image)],
            input=f'stat "{path}"\n'.encode(),
            capture_output=True,
            check=True,
            env=os.environ | {"DEBUGFS_PAGER": "cat", "TZ": "UTC"},
        )
        return done.stdout.decode("utf-8", "surrogateescape")

    return look


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop of one's own, to change; it leaves no thread behind."""
    before = set(threading.enumerate())
    with Shop(tmp_path / "demo") as opened:
        yield opened
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


@pytest.fixture(scope="module")
def quiet_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A shop that is only asked."""
    with Shop(tmp_path_factory.mktemp("shop") / "demo") as opened:
        yield opened


@pytest.fixture
def machine(shop: Shop) -> Iterator[SshMachine]:
    opened = SshMachine(ssh_settings(shop))
    yield opened
    opened.close()


def ssh_settings(shop: Shop) -> SshSettings:
    return SshSettings(
        "kvm1",
        f"demo@127.0.0.1:{shop.ssh.port}",
        shop.ssh.known_hosts,
        identity_files=(shop.ssh.client_key,),
        config_file=None,
        use_agent=False,
    )
