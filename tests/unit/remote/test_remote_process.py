"""Process identities."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.remote.process import identity, is_dead, terminate


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_names_host_process_and_start() -> None:
    host, pid, start = identity().split(":")
    assert host == socket.gethostname()
    assert int(pid) == os.getpid()
    assert int(start) == int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


def test_running_process_is_not_dead(child: subprocess.Popen[bytes]) -> None:
    assert not is_dead(identity(child.pid))


def test_ended_process_is_dead_also_as_a_zombie(
    child: subprocess.Popen[bytes], until: Callable[..., None]
) -> None:
    who = identity(child.pid)
    os.kill(child.pid, 9)
    until(lambda: is_dead(who))
    with pytest.raises(ProcessLookupError):
        identity(child.pid)
    child.wait()
    assert is_dead(who)


def test_number_given_out_again_is_dead(child: subprocess.Popen[bytes]) -> None:
    host, pid, start = identity(child.pid).split(":")
    assert is_dead(f"{host}:{pid}:{int(start) - 1}")


def test_other_hosts_prove_nothing() -> None:
    assert not is_dead("elsewhere.example:1:1")
    assert not is_dead("elsewhere.example:4194304999:1")


@pytest.mark.parametrize(
    "text", ["", ":", "::", "x", f"{socket.gethostname()}:x:y", f"{socket.gethostname()}:0:5"]
)
def test_nonsense_proves_nothing(text: str) -> None:
    assert not is_dead(text)
    assert not terminate(text)


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    assert not is_dead(text)
    assert not is_dead(f"{socket.gethostname()}:{text}:{text}") or text.isdigit()


def test_terminate_ends_exactly_this_process(child: subprocess.Popen[bytes]) -> None:
    host, pid, start = identity(child.pid).split(":")
    assert not terminate(f"{host}:{pid}:{int(start) + 1}")
    assert not terminate(f"elsewhere:{pid}:{start}")
    assert child.poll() is None
    assert terminate(f"{host}:{pid}:{start}")
    assert child.wait(10) == -15
    assert not terminate(f"{host}:{pid}:{start}")


def test_name_with_parentheses_and_spaces(tmp_path: Path) -> None:
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to(sys.executable)
    with subprocess.Popen(
        [str(odd), "-c", "import sys; print('up', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert not is_dead(identity(process.pid))
