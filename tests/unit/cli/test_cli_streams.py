from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmconsole.cli.streams import Sturdy

OPEN_MISSING = """
import os
from vmconsole.cli.streams import open_missing
open_missing()
made = os.open("/dev/zero", os.O_RDONLY)
open({answer!r}, "w").write(str(made))
"""


def test_a_full_disk_is_remembered_and_not_raised():
    with Path("/dev/full").open("w") as full:
        stream = Sturdy(full)
        stream.write("lost\n")
        stream.flush()
        assert isinstance(stream.lost, OSError)
        assert not stream.reader_left
        stream.write("not even tried\n")
        stream.settle()


def test_a_reader_that_left():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        stream = Sturdy(pipe)
        assert stream.write("x\n") == 2
        stream.flush()
        assert stream.reader_left
        stream.settle()
        # what Python flushes at exit goes nowhere now, and raises nothing


def test_no_stream_at_all():
    stream = Sturdy(None)
    assert stream.write("x") == 1
    stream.settle()
    assert not stream.isatty()
    assert stream.lost is None
    with pytest.raises(OSError, match="no such stream"):
        stream.fileno()


def test_a_closed_stream():
    inner = io.StringIO()
    inner.close()
    stream = Sturdy(inner)
    assert not stream.isatty()
    stream.write("x")
    assert stream.lost is not None


def test_letters_the_encoding_lacks_become_escapes():
    raw = io.BytesIO()
    stream = Sturdy(io.TextIOWrapper(raw, encoding="ascii"))
    stream.write("✓ Büro\n")
    stream.flush()
    assert raw.getvalue() == b"\\u2713 B\\xfcro\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_file_never_takes_the_place_of_a_missing_stream(tmp_path, closed):
    answer = tmp_path / "answer"
    code = OPEN_MISSING.format(answer=str(answer))
    subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", code], check=True)
    assert int(answer.read_text()) > 2
