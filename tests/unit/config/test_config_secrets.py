from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vmconsole.config.secret_schema import SecretConfig, TokenConfig
from vmconsole.config.secrets import channel_url, passphrase, token_secret
from vmconsole.errors import CommandFailed, ConfigError, ToolMissing


def never(_argv: Sequence[str]) -> bytes:
    raise AssertionError("nothing is to be run")


def get(
    run: Callable[[Sequence[str]], bytes] = never, environ: dict[str, str] | None = None, **source: Any
) -> str:
    secret = SecretConfig.model_validate(source)
    return passphrase(secret, "main", run=run, environ=environ or {})


def refused(
    run: Callable[[Sequence[str]], bytes] = never, environ: dict[str, str] | None = None, **source: Any
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        get(run, environ, **source)
    assert caught.value.subject == "main"
    return caught.value


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "it's secret"
    path.write_bytes(b"hunter2 \n")
    path.chmod(0o600)
    return path


def test_file(secret_file: Path) -> None:
    assert get(file=str(secret_file)) == "hunter2 "
    secret_file.chmod(0o400)
    assert get(file=str(secret_file)) == "hunter2 "


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"a\n\n", "a\n"), (b"a", "a"), (b"\na\n", "\na"), (b"a\r\n", "a\r"), ("ü\n".encode(), "ü")],
)
def test_exactly_one_newline_goes(secret_file: Path, content: bytes, expected: str) -> None:
    secret_file.write_bytes(content)
    assert get(file=str(secret_file)) == expected
    assert get(lambda _: content, command=["x"]) == expected


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o700, 0o4600])
def test_a_file_others_may_read_is_refused(secret_file: Path, mode: int) -> None:
    secret_file.chmod(mode)
    error = refused(file=str(secret_file))
    assert f"mode {mode:04o}" in error.message
    assert error.hint.startswith("chmod 600 '")
    subprocess.run(["sh", "-c", error.hint], check=True)
    assert get(file=str(secret_file)) == "hunter2 "


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(secret_file: Path) -> None:
    os.chown(secret_file, 1234, -1)
    error = refused(file=str(secret_file))
    assert "belongs to 1234, not to root" in error.message
    assert error.hint.startswith("chown root ")


def test_files_that_are_none(tmp_path: Path, secret_file: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "not a regular file" in refused(file=str(tmp_path / "fifo")).message
    assert "not a regular file" in refused(file=str(tmp_path)).message
    assert "umask 077" in refused(file=str(tmp_path / "none")).hint
    secret_file.write_bytes(b"x" * 70_000)
    assert "larger than 64 KiB" in refused(file=str(secret_file)).message


def test_a_link_to_a_good_file_is_fine(secret_file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(secret_file)
    assert get(file=str(tmp_path / "link")) == "hunter2 "


def test_bytes_that_are_no_text_are_not_repeated(secret_file: Path) -> None:
    secret_file.write_bytes(b"hunter2\xff\n")
    error = refused(file=str(secret_file))
    assert "not UTF-8" in error.message
    assert error.__cause__ is None
    assert error.__suppress_context__


@pytest.mark.parametrize("content", [b"", b"\n"])
def test_empty_is_refused(secret_file: Path, content: bytes) -> None:
    secret_file.write_bytes(content)
    assert "is empty" in refused(file=str(secret_file)).message
    assert "is empty" in refused(environ={"P": content.decode()}, env="P").message
    error = refused(lambda _: content, command=["pass", "show", "private/name"])
    assert "command pass)" in error.message
    assert "private" not in error.message


def test_command() -> None:
    seen: list[Sequence[str]] = []

    def run(argv: Sequence[str]) -> bytes:
        seen.append(argv)
        return b"hunter2\n"

    assert get(run, command=["pass", "show", "a b"]) == "hunter2"
    assert seen == [("pass", "show", "a b")]

    def fails(argv: Sequence[str]) -> bytes:
        raise CommandFailed("pass ended with status 1.")

    with pytest.raises(CommandFailed):
        get(fails, command=["pass"])


def test_environment() -> None:
    assert get(environ={"P": "hunter2\n"}, env="P") == "hunter2"
    assert "variable P " in refused(env="P").message


def test_systemd_credential(tmp_path: Path) -> None:
    (tmp_path / "borg").write_bytes(b"hunter2\n")
    # systemd gives read access through an ACL: what matters is that it is there
    (tmp_path / "borg").chmod(0o440)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert get(environ=environ, credential="borg") == "hunter2"
    assert "not started by systemd" in refused(credential="borg").message
    assert "cannot be read" in refused(environ=environ, credential="other").message


class FakeKeyring(ModuleType):
    """Stands for the desktop's keyring, which a test machine has not."""

    def __init__(self) -> None:
        super().__init__("keyring")
        import keyring.errors

        self.errors = keyring.errors
        self.broken = False

    def get_password(self, service: str, user: str) -> str | None:
        if self.broken:
            raise self.errors.NoKeyringError("no backend")
        return {("borg", "me/too"): "hunter2"}.get((service, user))


def test_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeKeyring()
    monkeypatch.setitem(sys.modules, "keyring", fake)
    assert get(keyring="borg/me/too") == "hunter2"
    assert refused(keyring="borg/other").hint == "keyring set borg other"
    fake.broken = True
    assert "no backend" in refused(keyring="borg/me").message


def test_a_missing_keyring_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(ToolMissing) as caught:
        get(keyring="borg/me")
    assert caught.value.hint == "pipx inject vmconsole keyring"


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"file": "a", "env": "B"},
        {"command": []},
        {"command": "pass show"},
        {"env": "no good"},
        {"credential": "../etc/shadow"},
        {"keyring": "service"},
        {"keyring": "/user"},
    ],
)
def test_sources_refused(source: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="SecretConfig"):
        SecretConfig.model_validate(source)


def test_the_keyring_is_not_imported_before_it_is_asked_for() -> None:
    code = "import sys, vmconsole.config.secrets, vmconsole.config.load; sys.exit('keyring' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_secret_of_a_token(secret_file: Path) -> None:
    def fetch(**source: Any) -> str:
        token = TokenConfig.model_validate({"id": "backup@pve!vmconsole", **source})
        return token_secret(token, "pve", run=lambda argv: b"1-2-3\n\n", environ={"T": "4-5-6\n"})

    assert fetch(file=str(secret_file)) == "hunter2"
    assert fetch(command=["pass"]) == "1-2-3"
    assert fetch(env="T") == "4-5-6"
    secret_file.chmod(0o644)
    with pytest.raises(ConfigError, match=r"The API token file .* of host pve has mode 0644") as caught:
        fetch(file=str(secret_file))
    assert caught.value.subject == "pve"
    with pytest.raises(ConfigError, match=r"variable NONE for the API token of host pve is not set"):
        fetch(env="NONE")
    secret_file.write_text("")
    secret_file.chmod(0o600)
    with pytest.raises(ConfigError, match=r"The API token of host pve is empty \(file "):
        fetch(file=str(secret_file))


def test_the_url_of_a_channel(secret_file: Path) -> None:
    secret = SecretConfig.model_validate({"file": str(secret_file)})
    assert channel_url(secret, "mail", run=lambda argv: b"") == "hunter2"
    secret_file.chmod(0o644)
    with pytest.raises(ConfigError, match=r"The URL file .* of channel mail has mode 0644"):
        channel_url(secret, "mail", run=lambda argv: b"")
