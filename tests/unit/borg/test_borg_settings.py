from __future__ import annotations

import pytest

from vmconsole.borg.settings import DEFAULT_RSH, BorgSettings
from vmconsole.errors import ConfigError


def settings(location: str = "/srv/repo", **more: object) -> BorgSettings:
    return BorgSettings("store", location, lambda: "secret", **more)  # type: ignore[arg-type] - wrong on purpose


@pytest.mark.parametrize(
    ("location", "remote"),
    [
        ("/srv/repo", False),
        ("~/repo", False),
        ("file:///srv/repo", False),
        ("/srv/with blanks", False),
        ("ssh://nas/repo", True),
        ("ssh://me@nas.example:2222/./repo", True),
        ("ssh://me@[2001:db8::1]:22/srv/repo", True),
    ],
)
def test_locations(location: str, remote: bool) -> None:
    assert settings(location).is_remote is remote


@pytest.mark.parametrize(
    "location",
    [
        "",
        "repo",
        "nas:repo",
        "ssh://",
        "ssh://nas",
        "ssh:///repo",
        "ssh://-oProxyCommand=evil/repo",
        "ssh://me@-oProxyCommand=evil/repo",
        "ssh://me@nas:x/repo",
        "/srv/repo::archive",
        "/srv/{hostname}",
        "/srv/a\nb",
        "http://nas/repo",
    ],
)
def test_locations_that_cannot_work(location: str) -> None:
    with pytest.raises(ConfigError, match="location") as caught:
        settings(location)
    assert caught.value.hint


@pytest.mark.parametrize("size", [0, 1, 511, 4095, 4096 + 1, 32 * 1024 * 1024, -4096])
def test_chunk_sizes_that_cannot_work(size: int) -> None:
    with pytest.raises(ConfigError, match="chunk size"):
        settings(chunk_size=size)


def test_encryption_modes() -> None:
    with pytest.raises(ConfigError, match="rot13"):
        settings(encryption="rot13")
    assert not settings().may_be_unencrypted
    assert settings(encryption="authenticated-blake2").may_be_unencrypted


def test_the_passphrase_is_not_in_what_is_printed() -> None:
    assert "secret" not in repr(settings())
    assert "passphrase" not in repr(settings())


def test_the_remote_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BORG_RSH", raising=False)
    assert settings().remote_shell == DEFAULT_RSH
    assert "BatchMode=yes" in DEFAULT_RSH
    monkeypatch.setenv("BORG_RSH", "ssh -i key")
    assert settings().remote_shell == "ssh -i key"
    assert settings(rsh="ssh -F x").remote_shell == "ssh -F x"
