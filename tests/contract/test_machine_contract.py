"""What every Machine promises, on the real thing: this machine, and a host behind a real sshd."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmconsole.errors import CommandFailed, HostError, ToolMissing
from vmconsole.remote.machine import Machine

_HOSTILE = [
    "",
    " ",
    "two words",
    "it's",
    '"quoted"',
    "$(touch /nonexistent)",
    "`id`",
    "$HOME",
    "a;b|c&d>e<f",
    "back\\slash \\n \\\\",
    "line\nbreak\n",
    "tab\tbell\a\x1b[31m",
    "*?[a-z]{1,2}~",
    "!history #comment",
    "-n",
    "--",
    "=",
    "äöü 🐟 \u202e",
    "x" * 255,
    os.fsdecode(bytes(range(1, 256))),
]


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def arguments_seen(machine: Machine, arguments: list[str]) -> list[str]:
    printed = machine.run(["printf", "%s\\0", *arguments]).stdout
    return [os.fsdecode(word) for word in printed.split(b"\0")[:-1]]


@pytest.fixture
def echo_socket(tmp_path: Path) -> Iterator[str]:
    """A unix socket that answers what it hears; `big N` gets N bytes."""
    path = str(tmp_path / "so'ck, et")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        thread = threading.Thread(target=_serve, args=(server,))
        thread.start()
        yield path
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def _serve(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            while heard := connection.recv(1024):
                if heard.startswith(b"big "):
                    connection.sendall(b"z" * int(heard[4:]))
                else:
                    connection.sendall(heard)


class TestArguments:
    def test_hostile_ones_arrive_as_given(self, machine: Machine) -> None:
        assert arguments_seen(machine, _HOSTILE) == _HOSTILE

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(
        arguments=st.lists(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1
        )
    )
    def test_any_text_arrives_as_given(self, machine: Machine, arguments: list[str]) -> None:
        assert arguments_seen(machine, arguments) == arguments

    def test_nul_is_refused(self, machine: Machine) -> None:
        with pytest.raises(ValueError, match="NUL"):
            machine.run(["echo", "a\0b"])

    def test_no_program_is_refused(self, machine: Machine) -> None:
        with pytest.raises(ValueError, match="program"):
            machine.run([])

    def test_too_many_are_an_error_not_a_crash(self, machine: Machine) -> None:
        with pytest.raises(CommandFailed):
            machine.run(["true", "x" * (4 * 1024 * 1024)])

    def test_programs_speak_english(self, machine: Machine) -> None:
        assert machine.run(["sh", "-c", "echo $LC_ALL"]).text == "C\n"


class TestResult:
    def test_outputs_are_kept_apart(self, machine: Machine) -> None:
        done = machine.run(["sh", "-c", "echo out; echo err >&2"])
        assert (done.status, done.text, done.errors) == (0, "out\n", "err")

    def test_status_without_check(self, machine: Machine) -> None:
        assert machine.run(["sh", "-c", "exit 7"], check=False).status == 7

    def test_status_with_check_names_command_and_reason(self, machine: Machine) -> None:
        with pytest.raises(CommandFailed, match="some reason") as caught:
            machine.run(["sh", "-c", "echo some reason >&2; exit 7"])
        assert caught.value.exit_status == 7
        assert "sh -c" in caught.value.message
        assert machine.name in caught.value.message

    def test_signal(self, machine: Machine) -> None:
        assert machine.run(["sh", "-c", "kill -KILL $$"], check=False).status == 128 + 9

    def test_missing_program_is_named(self, machine: Machine) -> None:
        with pytest.raises(ToolMissing, match="no-such-program-here"):
            machine.run(["no-such-program-here", "x"])

    def test_missing_program_is_named_also_without_check(self, machine: Machine) -> None:
        with pytest.raises(ToolMissing):
            machine.run(["no-such-program-here"], check=False)

    def test_messages_hold_no_terminal_escapes(self, machine: Machine) -> None:
        with pytest.raises(CommandFailed) as caught:
            machine.run(["sh", "-c", "printf '\\033]0;title\\007' >&2; exit 1", "\x1b[2J"])
        assert caught.value.message.isprintable()

    def test_long_commands_are_shortened(self, machine: Machine) -> None:
        with pytest.raises(CommandFailed) as caught:
            machine.run(["false", *["word"] * 1000])
        assert len(caught.value.message) < 400


class TestInput:
    def test_large_input_comes_back(self, machine: Machine) -> None:
        data = os.urandom(5_000_000)
        assert machine.run(["cat"], stdin=data).stdout == data

    def test_large_input_that_nobody_reads(self, machine: Machine) -> None:
        assert machine.run(["true"], stdin=b"x" * 10_000_000).status == 0

    def test_no_input_is_an_empty_one(self, machine: Machine) -> None:
        assert machine.run(["cat"], timeout=10).stdout == b""

    def test_output_before_reading_input(self, machine: Machine) -> None:
        source = "head -c 4000000 /dev/zero; cat"
        done = machine.script(source, stdin=b"y" * 4_000_000)
        assert len(done.stdout) == 8_000_000


class TestLimits:
    def test_time(self, machine: Machine) -> None:
        began = time.monotonic()
        with pytest.raises(CommandFailed, match=r"did not end within 0\.5 s"):
            machine.run(["sleep", "60"], timeout=0.5)
        assert time.monotonic() - began < 5

    def test_time_without_input_being_read(self, machine: Machine) -> None:
        with pytest.raises(CommandFailed, match="did not end"):
            machine.run(["sleep", "60"], stdin=b"x" * 10_000_000, timeout=0.5)

    def test_time_although_it_keeps_talking(self, machine: Machine) -> None:
        with pytest.raises(CommandFailed, match="did not end"):
            machine.run(["sh", "-c", "while :; do echo x; sleep 0.05; done"], timeout=0.5)

    def test_output(self, machine: Machine) -> None:
        with pytest.raises(CommandFailed, match="1000 bytes"):
            machine.run(["yes"], max_output=1000, timeout=30)

    def test_output_of_exactly_the_limit(self, machine: Machine) -> None:
        assert len(machine.run(["head", "-c", "1000", "/dev/zero"], max_output=1000).stdout) == 1000

    def test_errors_are_read_to_the_end_and_kept_in_part(self, machine: Machine) -> None:
        done = machine.run(["sh", "-c", "head -c 20000000 /dev/zero >&2; echo done"])
        assert done.text == "done\n"
        assert 0 < len(done.stderr) <= 1024 * 1024

    def test_daemon_left_behind_does_not_hold_us_up(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vmconsole.remote.child._DRAIN_GRACE", 0.5)
        monkeypatch.setattr("vmconsole.remote.ssh_process._DRAIN_GRACE", 0.5)
        began = time.monotonic()
        for stdin in (b"", b"x" * 1_000_000):
            done = machine.run(["sh", "-c", "sleep 12 <&0 & echo started"], stdin=stdin, timeout=11)
            assert done.text == "started\n"
        assert time.monotonic() - began < 10


class TestScript:
    def test_arguments(self, machine: Machine) -> None:
        done = machine.script('printf "%s|" "$0" "$#" "$@"', ["a b", "", "$(x)"])
        assert done.text == "vmconsole|3|a b||$(x)|"

    def test_source_of_many_lines(self, machine: Machine) -> None:
        assert machine.script("cat <<'END'\n$HOME 'x'\nEND\n").text == "$HOME 'x'\n"

    def test_program_missing_inside(self, machine: Machine) -> None:
        with pytest.raises(ToolMissing, match="no-such-tool"):
            machine.script("no-such-tool")
        assert machine.script("no-such-tool", check=False).status == 127

    def test_input(self, machine: Machine) -> None:
        assert machine.script("cat", stdin=b"fed").stdout == b"fed"


class TestProcess:
    def test_conversation(self, machine: Machine) -> None:
        process = machine.start(["cat"])
        process.write(b"one\ntwo\nthr")
        assert process.read_line(10) == b"one\n"
        assert process.read_line(10) == b"two\n"
        process.write(b"ee\nrest")
        assert process.read_line(10) == b"three\n"
        process.close_stdin()
        done = process.wait(10)
        process.close()
        assert (done.status, done.stdout) == (0, b"rest")

    def test_last_line_without_newline_then_end(self, machine: Machine) -> None:
        process = machine.start(["printf", "a\\nb"])
        assert [process.read_line(10) for _ in range(3)] == [b"a\n", b"b", b""]
        assert process.wait(10).status == 0
        process.close()

    def test_silence(self, machine: Machine) -> None:
        process = machine.start(["cat"])
        with pytest.raises(TimeoutError):
            process.read_line(0.2)
        with pytest.raises(TimeoutError):
            process.wait(0.2)
        process.write(b"still there\n")
        assert process.read_line(10) == b"still there\n"
        process.close()

    def test_status_and_errors(self, machine: Machine) -> None:
        process = machine.start(["sh", "-c", "echo no >&2; exit 5"])
        done = process.wait(10)
        process.close()
        assert (done.status, done.errors) == (5, "no")

    def test_chatter_on_errors_does_not_block_it(self, machine: Machine) -> None:
        process = machine.start(["sh", "-c", "head -c 20000000 /dev/zero >&2; echo done"])
        assert process.read_line(30) == b"done\n"
        process.close()

    def test_long_line_there_and_back(self, machine: Machine) -> None:
        line = b"x" * 3_000_000 + b"\n"
        process = machine.start(["cat"])
        process.write(line)
        assert process.read_line(30) == line
        process.close()

    def test_binary_stream_arrives_whole(self, machine: Machine) -> None:
        data = os.urandom(12 << 20)
        process = machine.start(["sh", "-c", "sleep 0.2; exec sha256sum"])
        position = 0
        for size in (1, 65536, 3 << 20, 7, 1 << 20, len(data)):
            process.write(data[position : position + size])
            position += size
        process.close_stdin()
        done = process.wait(30)
        process.close()
        assert done.text.split()[0] == hashlib.sha256(data).hexdigest()

    def test_writing_waits_for_a_slow_reader(self, machine: Machine) -> None:
        process = machine.start(["sh", "-c", "sleep 1; exec cat >/dev/null"])
        began = time.monotonic()
        process.write(bytes(16 << 20))
        assert time.monotonic() - began > 0.8
        process.close_stdin()
        assert process.wait(30).status == 0
        process.close()

    def test_closing_ends_its_input(self, machine: Machine, tmp_path: Path) -> None:
        marker = tmp_path / "ended"
        process = machine.start(["sh", "-c", 'cat >/dev/null; echo >"$1"', "sh", str(marker)])
        process.write(b"x")
        assert not marker.exists()
        process.close()
        until(marker.exists)

    def test_closing_twice(self, machine: Machine) -> None:
        process = machine.start(["cat"])
        process.close()
        process.close()

    def test_missing_program(self, machine: Machine) -> None:
        try:
            process = machine.start(["no-such-program-here"])
        except ToolMissing:
            return
        assert process.wait(10).status == 127
        process.close()


class TestProcessOutput:
    """A long output, read as it comes."""

    def test_all_of_it_and_the_end(self, machine: Machine) -> None:
        process = machine.start(
            ["sh", "-c", 'echo head; head -c 50000000 /dev/zero | tr "\\0" z; echo bye >&2']
        )
        assert process.read_line(10) == b"head\n"
        got = 0
        while piece := process.read(300_000, 10):
            assert len(piece) <= 300_000
            assert piece.count(b"z") == len(piece)
            got += len(piece)
        assert got == 50_000_000
        assert process.read(100, 10) == b""
        done = process.wait(10)
        assert (done.status, done.stdout, done.errors) == (0, b"", "bye")
        process.close()

    def test_comes_when_it_is_there(self, machine: Machine) -> None:
        process = machine.start(["cat"])
        process.write(b"now")
        assert process.read(1_000_000, 10) == b"now"
        with pytest.raises(TimeoutError):
            process.read(1, 0.2)
        process.write(b"later")
        assert process.read(2, 10) + process.read(100, 10) == b"later"
        process.close()

    def test_the_end_does_not_hide_a_failure(self, machine: Machine) -> None:
        process = machine.start(["sh", "-c", "printf some; echo reason >&2; exit 9"])
        assert process.read(100, 10) == b"some"
        assert process.read(100, 10) == b""
        assert process.wait(10).status == 9
        process.close()

    def test_a_slow_reader_slows_the_program_down(self, machine: Machine, tmp_path: Path) -> None:
        """It writes 1 MiB after the other and counts; we read one and look where it is."""
        source = (
            'i=0; while [ $i -lt 64 ]; do head -c 1048576 /dev/zero || exit; i=$((i+1)); echo $i >"$1"; done'
        )
        place = tmp_path / "count"
        process = machine.start(["sh", "-c", source, "sh", str(place)])
        assert process.read(4096, 10)
        time.sleep(1.0)
        assert int(place.read_text() or 0) <= 24
        process.close()

    def test_the_last_errors_are_kept(self, machine: Machine) -> None:
        source = "head -c 5000000 /dev/zero >&2; echo last words >&2; echo x"
        process = machine.start(["sh", "-c", source])
        assert process.read(100, 20) == b"x\n"
        assert process.read(100, 20) == b""
        process.wait(10)
        assert process.stderr.endswith(b"last words\n")
        assert len(process.stderr) <= 1024 * 1024
        process.close()

    def test_closing_ends_one_that_writes_for_ever(self, machine: Machine, tmp_path: Path) -> None:
        marker = tmp_path / "ended"
        process = machine.start(
            ["sh", "-c", 'trap "" TERM HUP; cat /dev/zero; echo >"$1"', "sh", str(marker)]
        )
        assert process.read(100, 10)
        process.close()
        if machine.name != "this machine":  # Here it was killed; there it finds its output gone.
            until(marker.exists)


class TestUnixSocket:
    def test_conversation(self, machine: Machine, echo_socket: str) -> None:
        stream = machine.open_unix(echo_socket)
        stream.settimeout(10)
        stream.sendall(memoryview(b"hello"))
        assert stream.recv(100) == b"hello"
        stream.sendall(b"big 3000000")
        got = 0
        while got < 3_000_000:
            piece = stream.recv(65536)
            assert piece
            assert len(piece) <= 65536
            got += len(piece)
        stream.close()
        stream.close()

    def test_silence(self, machine: Machine, echo_socket: str) -> None:
        stream = machine.open_unix(echo_socket)
        stream.settimeout(0.2)
        with pytest.raises(TimeoutError):
            stream.recv(10)
        stream.settimeout(10)
        stream.sendall(b"x")
        assert stream.recv(10) == b"x"
        stream.close()

    def test_end(self, machine: Machine, tmp_path: Path) -> None:
        path = str(tmp_path / "once")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            server.listen()
            stream = machine.open_unix(path)
            connection, _ = server.accept()
            connection.sendall(b"last words")
            connection.close()
            stream.settimeout(10)
            said = b""
            while piece := stream.recv(100):
                said += piece
            assert said == b"last words"
            stream.close()

    def test_none_there(self, machine: Machine, tmp_path: Path) -> None:
        with pytest.raises(HostError, match="There is no socket"):
            machine.open_unix(str(tmp_path / "none"))

    def test_none_there_nor_its_folder(self, machine: Machine, tmp_path: Path) -> None:
        with pytest.raises(HostError, match="There is no socket"):
            machine.open_unix(str(tmp_path / "no" / "such" / "folder" / "none"))

    def test_nobody_listens(self, machine: Machine, tmp_path: Path) -> None:
        path = str(tmp_path / "deaf")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
        with pytest.raises(HostError, match="Nobody listens"):
            machine.open_unix(path)

    def test_a_plain_file(self, machine: Machine, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch()
        with pytest.raises(HostError, match="Nobody listens"):
            machine.open_unix(str(path))

    def test_nul_is_refused(self, machine: Machine) -> None:
        with pytest.raises(ValueError, match="NUL"):
            machine.open_unix("/run/a\0b")

    def test_path_too_long(self, machine: Machine, tmp_path: Path) -> None:
        with pytest.raises(HostError):
            machine.open_unix(str(tmp_path / ("x" * 200)))


class TestThreads:
    def test_many_at_once(self, machine: Machine) -> None:
        answers: dict[int, str] = {}

        def ask(number: int) -> None:
            answers[number] = machine.run(
                ["sh", "-c", 'sleep 0.2; echo "$1"', "sh", str(number)], timeout=50
            ).text

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {number: f"{number}\n" for number in range(24)}
