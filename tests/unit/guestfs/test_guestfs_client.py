"""Whatever the parser's process says or does, its user gets an error of ours, in time."""

from __future__ import annotations

import os
import sys

import pytest

from vmconsole.errors import FilesUnreadable, HostUnreachable, PathNotFound, RepositoryDamaged
from vmconsole.guestfs import client
from vmconsole.guestfs.client import GuestDisks, open_files
from vmconsole.guestfs.wire import HEADER, frame
from vmconsole.model.files import FileKind
from vmconsole.remote.local import LocalMachine


class Disk:
    def __init__(self, content, error=None):
        self._content, self._error = content, error
        self.size = len(content)

    def read_at(self, offset, length):
        if self._error:
            raise self._error
        return self._content[offset : offset + length]


class Talk:
    """A process that says this, and then nothing for ever, or ends."""

    def __init__(self, *said, ends=True, stderr=b""):
        self._said, self._ends, self.stderr = list(said), ends, stderr
        self.written, self.closed = [], False

    def write(self, data):
        self.written.append(data)

    def read(self, size, timeout):
        if self._said:
            return self._said.pop(0)
        if self._ends:
            return b""
        raise TimeoutError

    def close(self):
        self.closed = True


class Machine:
    name = "here"

    def __init__(self, talk):
        self.talk = talk

    def start(self, argv):
        return self.talk


VOLUMES = frame({"volumes": []}) + frame({"end": True})


def asked(*said, **more):
    """What comes of a listing when the process answers so."""
    talk = Talk(VOLUMES, *said, **more)
    files = GuestDisks(Machine(talk), {"vda": Disk(b"x" * 100)}, 5.0)
    files.start()
    return list(files.entries("", "/")), talk


@pytest.mark.parametrize(
    "said",
    [
        [b""],
        [HEADER.pack(2**31, ord("J"))],
        [HEADER.pack(10, ord("?"))],
        [HEADER.pack(3, ord("J")) + b"nop"],
        [HEADER.pack(2, ord("J")) + b"[]"],
        [frame({"ask": ["vda", -1, 10]})],
        [frame({"ask": ["vda", 0, 2**40]})],
        [frame({"ask": ["other", 0, 1]})],
        [frame({"ask": 7})],
        [frame({"entries": [{"kind": "file"}]})],
        [frame({"entries": [{"name": "a", "kind": "file", "size": "many"}]})],
    ],
)
def test_nonsense_ends_it(said):
    talk = Talk(VOLUMES, *said)
    files = GuestDisks(Machine(talk), {"vda": Disk(b"x" * 100)}, 5.0)
    files.start()
    with pytest.raises(FilesUnreadable) as caught:
        list(files.entries("", "/"))
    assert talk.closed
    assert caught.value.hint


def test_one_that_takes_too_long_is_ended():
    talk = Talk(VOLUMES, ends=False)
    files = GuestDisks(Machine(talk), {}, 5.0)
    files.start()
    with pytest.raises(FilesUnreadable, match="within 5 s"):
        list(files.entries("", "/"))
    assert talk.closed


def test_memory_that_was_not_enough_is_told():
    with pytest.raises(FilesUnreadable, match="more memory"):
        asked(stderr=b"MemoryError\n")


def test_a_disk_that_cannot_be_read_is_told_as_it_is():
    talk = Talk(VOLUMES, frame({"ask": ["vda", 0, 10]}))
    files = GuestDisks(Machine(talk), {"vda": Disk(b"x" * 100, RepositoryDamaged("gone"))}, 5.0)
    files.start()
    with pytest.raises(RepositoryDamaged):
        list(files.entries("", "/"))
    assert talk.closed


def test_what_is_asked_for_is_sent_with_zeros_behind_the_end():
    _, talk = asked(frame({"ask": ["vda", 95, 10]}), frame({"end": True}))
    assert talk.written[-1] == frame(b"xxxxx" + bytes(5))


@pytest.mark.parametrize(
    ("word", "text"), [("missing", "There is no /x."), ("not a folder", "/x is not a folder.")]
)
def test_what_is_not_there(word, text):
    with pytest.raises(PathNotFound) as caught:
        asked(frame({"error": word, "message": "/x"}))
    assert caught.value.message == text


def test_entries_are_taken_for_no_more_than_they_are():
    found, _ = asked(
        frame({"entries": [{"name": "a\udcff", "kind": "sorcery", "mode": 0o77777, "size": -4}]}),
        frame({"end": True}),
    )
    assert (found[0].name, found[0].kind, found[0].mode, found[0].size) == (
        "a\udcff",
        FileKind.OTHER,
        0o7777,
        0,
    )


def test_a_large_file_is_asked_for_piece_by_piece(monkeypatch):
    monkeypatch.setattr(client, "AT_ONCE", 4)
    answers = [frame(piece) + frame({"end": True}) for piece in (b"0123", b"4567", b"8")]
    talk = Talk(VOLUMES, *answers)
    files = GuestDisks(Machine(talk), {}, 5.0)
    files.start()
    assert b"".join(files.read("", "/f", 0, 100)) == b"012345678"
    assert [
        b'"offset":%d,' % at in written for at, written in zip((0, 4, 8), talk.written[1:], strict=True)
    ] == [True] * 3


def test_a_process_that_cannot_be_written_to():
    talk = Talk(VOLUMES)
    files = GuestDisks(Machine(talk), {}, 5.0)
    files.start()

    def gone(data):
        raise HostUnreachable("no more input")

    talk.write = gone
    with pytest.raises(FilesUnreadable):
        files.entry("", "/")


def test_the_real_process_reads_a_disk_without_anything_on_it():
    with open_files(LocalMachine(), {"vda": Disk(bytes(1024 * 1024))}) as files:
        (volume,) = files.volumes
        assert (volume.name, volume.kind, volume.readable) == ("vda", "unknown", False)
        with pytest.raises(PathNotFound):
            files.entry("vda", "/")
        assert list(files.entries("", "/")) == []


@pytest.mark.parametrize(
    "attempt", ["open('/etc/passwd')", "open('/tmp/new', 'w')", "bytearray(2**31)", "os.fork()"]
)
def test_the_real_process_is_confined(attempt):
    if "fork" in attempt and os.geteuid() == 0:
        pytest.skip("no limit of processes holds root")
    code = (
        "import os; from vmconsole.guestfs.worker import confine; confine()\n"
        f"try: {attempt}\n"
        "except (OSError, MemoryError): os.write(1, b'confined')\n"
    )
    assert LocalMachine().run([sys.executable, "-c", code], check=False).stdout == b"confined"


def test_the_real_process_ends_with_whoever_started_it():
    """Killed or not: what is left of it is the end of the parser's input."""
    process = LocalMachine().start([sys.executable, "-P", "-m", "vmconsole.guestfs.worker"])
    process.close_stdin()
    assert process.wait(30).status == 0
    process.close()
