"""The known_hosts format, against ssh-keygen where it has a say."""

from __future__ import annotations

import base64
import stat
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.errors import HostKeyChanged
from vmconsole.remote.known_hosts import HostKeyInfo, add, fingerprint, known_keys, load, parse


def blob(seed: int, kind: str = "ssh-ed25519") -> bytes:
    name = kind.encode()
    return struct.pack(">I", len(name)) + name + struct.pack(">I", 32) + bytes([seed]) * 32


def line(hosts: str, seed: int, kind: str = "ssh-ed25519") -> str:
    return f"{hosts} {kind} {base64.b64encode(blob(seed, kind)).decode()}"


def found(text: str, host: str, port: int = 22, alias: str = "") -> list[bytes]:
    return [entry.blob for entry in known_keys(parse(text, "file"), host, port, alias)]


class TestLookup:
    def test_plain_name(self) -> None:
        assert found(line("other", 1) + "\n" + line("box,10.0.0.1", 2), "box") == [blob(2)]

    def test_case_does_not_matter(self) -> None:
        assert found(line("Box", 2), "bOX") == [blob(2)]

    def test_port(self) -> None:
        text = line("[box]:2222", 1)
        assert found(text, "box", 2222) == [blob(1)]
        assert found(text, "box", 2223) == []
        assert found(text, "box") == []

    def test_bare_name_counts_for_another_port_when_nothing_else_is_known(self) -> None:
        assert found(line("box", 1), "box", 2222) == [blob(1)]
        assert found(line("box", 1) + "\n" + line("[box]:2222", 2), "box", 2222) == [blob(2)]

    def test_several_keys_of_a_host(self) -> None:
        text = line("box", 1) + "\n" + line("box", 2, "ecdsa-sha2-nistp256")
        assert len(found(text, "box")) == 2

    def test_patterns_and_negation(self) -> None:
        text = line("*.lan,!evil.lan,web?", 1)
        assert found(text, "a.lan") == [blob(1)]
        assert found(text, "web1") == [blob(1)]
        assert found(text, "evil.lan") == []
        assert found(text, "web12") == []

    def test_brackets_are_no_wildcards(self) -> None:
        assert found(line("[ab]:22", 1), "a") == []

    def test_alias_replaces_name_and_port(self) -> None:
        assert found(line("cluster", 1), "box", 2222, "cluster") == [blob(1)]

    def test_revoked_keys_are_kept_apart(self) -> None:
        entries = parse("@revoked " + line("*", 1), "file")
        assert entries[0].revoked
        assert known_keys(entries, "box", 22)[0].revoked

    def test_authorities_are_passed_over(self) -> None:
        assert parse("@cert-authority " + line("*", 1), "file") == []

    def test_hashed_by_ssh_keygen(self, tmp_path: Path) -> None:
        path = tmp_path / "known_hosts"
        path.write_text(line("box.lan", 1) + "\n" + line("[box.lan]:2222", 2) + "\n")
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True)
        assert "box" not in path.read_text()
        entries = load([path])
        assert [entry.blob for entry in known_keys(entries, "box.lan", 22)] == [blob(1)]
        assert [entry.blob for entry in known_keys(entries, "box.lan", 2222)] == [blob(2)]
        assert known_keys(entries, "other.lan", 22) == []

    def test_nonsense_is_passed_over(self) -> None:
        text = "\n".join(
            [
                "# comment",
                "",
                "box",
                "box ssh-ed25519",
                "box ssh-ed25519 !!!notbase64",
                "box ssh-rsa " + line("x", 1).split()[2],
                "@unknown " + line("box", 1),
                "|1|x|y " + line("x", 1).split(" ", 1)[1],
                "box  \t ssh-ed25519 \t " + line("x", 7).split()[2] + " comment here",
            ]
        )
        assert found(text, "box") == [blob(7)]

    @given(st.text())
    def test_any_text_is_survived(self, text: str) -> None:
        known_keys(parse(text, "file"), "box", 22)

    @given(st.text(alphabet="|1*?![]:,abc=\\. @", max_size=40))
    def test_any_pattern_is_survived(self, hosts: str) -> None:
        known_keys(parse(line(hosts, 1), "file"), "abc", 2222)

    def test_files_that_are_not_there(self, tmp_path: Path) -> None:
        assert load([tmp_path / "none"]) == []


class TestFingerprint:
    @pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
    def test_is_that_of_ssh_keygen(self, tmp_path: Path, kind: str) -> None:
        key = tmp_path / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(key)], check=True)
        listing = subprocess.run(["ssh-keygen", "-lf", str(key)], check=True, capture_output=True, text=True)
        encoded = key.with_suffix(".pub").read_text().split()[1]
        assert fingerprint(base64.b64decode(encoded)) == listing.stdout.split()[1]


class TestTrust:
    def test_new_file(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "known_hosts"
        key = HostKeyInfo.of("[box]:2222", "ssh-ed25519", blob(1))
        add(path, key, replace=False)
        assert path.read_text() == line("[box]:2222", 1) + "\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        listing = subprocess.run(
            ["ssh-keygen", "-F", "[box]:2222", "-f", str(path)], check=False, capture_output=True
        )
        assert listing.returncode == 0

    def test_twice_changes_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "known_hosts"
        key = HostKeyInfo.of("box", "ssh-ed25519", blob(1))
        add(path, key, replace=False)
        before = path.stat()
        add(path, key, replace=False)
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    def test_another_key_needs_replace(self, tmp_path: Path) -> None:
        path = tmp_path / "known_hosts"
        keep = "# mine\n" + line("other,box", 9) + "\n"
        path.write_text(keep + line("box", 1) + "\n")
        key = HostKeyInfo.of("box", "ssh-ed25519", blob(2))
        with pytest.raises(HostKeyChanged, match="already trusted"):
            add(path, key, replace=False)
        assert path.read_text() == keep + line("box", 1) + "\n"
        add(path, key, replace=True)
        assert path.read_text() == keep + line("box", 2) + "\n"
        assert list(tmp_path.iterdir()) == [path]

    def test_line_with_a_newline_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "known_hosts"
        text = line("box", 1) + "\n" + line("*", 2)
        with pytest.raises(ValueError, match="not a line"):
            add(path, HostKeyInfo("ssh-ed25519", fingerprint(blob(1)), text), replace=False)
        assert not path.exists()

    def test_line_of_another_key_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not a line"):
            add(
                tmp_path / "k",
                HostKeyInfo("ssh-ed25519", fingerprint(blob(2)), line("box", 1)),
                replace=False,
            )
