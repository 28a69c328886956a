"""JSON as Perl makes it, and the framing of what look.pl reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxmox_fake import FakeNode

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.proxmox import loose
from vmconsole.hypervisors.proxmox.look import Ask, free_bytes, look, split

perl = pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")


def test_noise_around_the_answer() -> None:
    assert loose.parse_json("") is None
    assert loose.parse_json(" \n") is None
    assert loose.parse_json('[{"vmid":100}]\n') == [{"vmid": 100}]
    noisy = "perl: warning: Setting locale failed.\n42\n[not json\n" + '{"a":"1"}\n'
    assert loose.parse_json(noisy) == {"a": "1"}
    assert loose.parse_json('{"a":1}\nConnection to pve2 closed.\n') == {"a": 1}
    assert loose.parse_json('warning\n"UPID:pve1:1"\n') == "UPID:pve1:1"
    assert loose.parse_json('{\n "a": 1\n}\n') == {"a": 1}


@pytest.mark.parametrize("text", ["no json", "{", "NaN", "[" * 100_000, '{"a": Infinity}', "\x1b[2J"])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        loose.parse_json(text)
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    ("value", "number", "integer", "flag", "word"),
    [
        (1, 1.0, 1, True, "1"),
        ("1", 1.0, 1, True, "1"),
        ("0", 0.0, 0, False, "0"),
        ("", None, -7, False, ""),
        (None, None, -7, True, ""),
        ("0.46", 0.46, -7, True, "0.46"),
        (3.0, 3.0, 3, True, "3.0"),
        ("no", None, -7, False, "no"),
        (True, None, 1, True, ""),
        ([1], None, -7, True, ""),
        ("1e999", None, -7, True, "1e999"),
        ("9" * 30, 1e30, int(1e30), True, "9" * 30),
        ("\ud800x", None, -7, True, "?x"),
    ],
)
def test_loose_values(value: object, number: float | None, integer: int, flag: bool, word: str) -> None:
    assert loose.number(value) == number
    assert loose.integer(value, -7) == integer
    assert loose.flag(value, default=True) is flag
    assert loose.word(value) == word


def test_records_leave_out_what_is_none() -> None:
    assert loose.records([{"a": 1}, None, 3, [{"b": 1}]]) == [{"a": 1}]
    assert loose.records({"a": 1}) == []
    assert loose.record([1]) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.lists(st.text(alphabet=st.characters(exclude_characters="\r\n"), max_size=20), max_size=3))
def test_any_answer_is_found_behind_noise_of_words(document: object, noise: list[str]) -> None:
    before = "".join(f"# {line}\n" for line in noise)
    assert loose.parse_json(before + json.dumps(document) + "\n") == document
    for value in document if isinstance(document, list) else [document]:
        assert isinstance(loose.integer(value), int)
        loose.word(value).encode()
        assert loose.number(value) is None or isinstance(loose.number(value), float)
        assert isinstance(loose.flag(value), bool)


@given(st.text())
def test_any_text_is_an_answer_or_a_protocol_error(text: str) -> None:
    told = ""
    try:
        loose.parse_json(text)
    except ProtocolError as error:
        told = error.message
    assert told.isprintable()


# --- framing -----------------------------------------------------------------------------------


@perl
def test_files_cannot_pass_for_others(tmp_path: Path) -> None:
    machine = FakeNode(tmp_path)
    forged = "name: evil\nTOKEN file 4 4 0\n/x\n"
    machine.write("/etc/pve/nodes/pve1/qemu-server/100.conf", forged.replace("TOKEN", "0" * 32))
    machine.write("/etc/pve/nodes/pve1/qemu-server/101.conf", b"\x00\xff\nno newline at the end")
    machine.write("/etc/pve/nodes/pve1/qemu-server/1 0 2.conf", "")
    found = look(machine, [(Ask.FILES, "/etc/pve/nodes/*/qemu-server/*.conf"), (Ask.FILE, "/none")])
    assert [item.name.rpartition("/")[2] for item in found] == ["1 0 2.conf", "100.conf", "101.conf", "none"]
    assert found[1].text.startswith("name: evil")
    assert found[2].data == b"\x00\xff\nno newline at the end"
    assert found[3].error == "No such file or directory"
    assert len(machine.commands) == 1


@perl
def test_identities_are_of_the_first_section_only(tmp_path: Path) -> None:
    machine = FakeNode(tmp_path)
    machine.write(
        "/etc/pve/nodes/a/qemu-server/100.conf",
        "name: x\nsmbios1: uuid=1\nvmgenid: 2\n[snap-1]\nsmbios1: uuid=3\n",
    )
    (found,) = look(machine, [(Ask.IDENTITIES, "/etc/pve/nodes/*/qemu-server/*.conf")])
    assert found.text == "smbios1: uuid=1\nvmgenid: 2\n"


@perl
def test_processes_locks_space_sizes_and_programs(tmp_path: Path) -> None:
    import fcntl
    import subprocess

    machine = FakeNode(tmp_path)
    pid_file = machine.write("/run/100.pid", "")
    other = machine.write("/run/101.pid", "1\n")
    lock = machine.write("/run/vzdump.lock", "")
    machine.write("/disk.raw", b"x" * 12345)
    with subprocess.Popen(["sleep", "60"], executable="/bin/sleep") as stranger:
        # The name of its pid file must be among the arguments.
        with subprocess.Popen(
            ["sh", "-c", "read x", "-pidfile", str(pid_file)], stdin=subprocess.PIPE
        ) as ours:
            pid_file.write_text(f"{ours.pid}\n")
            other.write_text(f"{stranger.pid}\n")
            with lock.open("a") as holder:
                fcntl.flock(holder, fcntl.LOCK_EX)
                found = {
                    (item.word, item.name): item.text
                    for item in look(
                        machine,
                        [
                            (Ask.PROCESS, "/run/100.pid"),
                            (Ask.PROCESS, "/run/101.pid"),
                            (Ask.PROCESS, "/run/102.pid"),
                            (Ask.LOCK, "/run/vzdump.lock"),
                            (Ask.LOCK, "/run/none.lock"),
                            (Ask.SPACE, "/run"),
                            (Ask.SPACE, "/none"),
                            (Ask.SIZE, "/disk.raw"),
                            (Ask.HAVE, "sh"),
                            (Ask.HAVE, "no-such-program"),
                        ],
                    )
                }
            started = Path(f"/proc/{ours.pid}/stat").read_text().rpartition(")")[2].split()[19]
            assert found["process", "/run/100.pid"] == f"{ours.pid}:{started}"
            ours.kill()
        stranger.kill()
    assert found["process", "/run/101.pid"] == ""
    assert found["process", "/run/102.pid"] == ""
    assert found["lock", "/run/vzdump.lock"] == "held"
    assert found["lock", "/run/none.lock"] == ""
    assert free_bytes(found["space", "/run"]) > 0
    assert free_bytes(found["space", "/none"]) == -1
    assert found["size", "/disk.raw"] == "12345"
    assert found["have", "sh"].startswith("/")
    assert found["have", "no-such-program"] == ""


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"hello\n",
        b"T file 1 1 0\nab\n",
        b"T file 1 9999 0\nab\nT end 0 0 0\n\n",
        b"T file 1 1 0\nabX",
        b"X file 1 1 0\nab\nX end 0 0 0\n\n",
    ],
)
def test_an_answer_that_is_not_whole(output: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        split(output, "T", "pve")
    assert caught.value.hint


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=60)), max_size=5))
def test_any_content_comes_back(parts: list[tuple[bytes, bytes]]) -> None:
    output = b"".join(b"T file %d %d 0\n%b%b\n" % (len(name), len(data), name, data) for name, data in parts)
    found = split(b"motd\n" + output + b"T end 0 0 0\n\n", "T", "pve")
    assert [item.data for item in found] == [data for _, data in parts]
    with pytest.raises(ProtocolError):
        split(output[:-1], "T", "pve")
