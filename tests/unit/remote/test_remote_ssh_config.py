"""Addresses and the SSH configuration, with ssh's own parser and with the one for machines without ssh."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.errors import ConfigError
from vmconsole.remote.ssh_config import Hop, resolve
from vmconsole.remote.ssh_settings import Address, SshSettings, parse_address

Resolve = Callable[..., Hop]


@pytest.fixture(params=["ssh", "no ssh"])
def resolve_in(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolve:
    if request.param == "no ssh":
        monkeypatch.setenv("PATH", str(tmp_path / "empty"))

    def run(config: str, address: str, **changes: object) -> Hop:
        path = tmp_path / "config"
        path.write_text(config)
        return resolve(SshSettings("host1", address, tmp_path / "known", config_file=path, **changes))  # type: ignore[arg-type] # test keywords

    return run


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("box", Address("box")),
        ("root@box", Address("box", 0, "root")),
        ("root@box.lan:2222", Address("box.lan", 2222, "root")),
        ("10.0.0.1:22", Address("10.0.0.1", 22)),
        ("root@[fe80::1%eth0]:2222", Address("fe80::1%eth0", 2222, "root")),
        ("::1", Address("::1")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "@", "root@", "-oProxyCommand=id", "root@-x", "box:99999", "a b", "box:x", "a@b@c"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)


@given(st.text())
def test_any_address_is_survived(text: str) -> None:
    try:
        address = parse_address(text)
    except ConfigError:
        return
    assert address.host
    assert not address.host.startswith("-")


def test_alias(resolve_in: Resolve) -> None:
    hop = resolve_in(
        "Host kvm\n HostName box.lan\n User admin\n Port 2222\n IdentityFile /keys/one\n"
        " IdentityFile /keys/two\n IdentitiesOnly yes\n HostKeyAlias cluster\n"
        " UserKnownHostsFile /known/one\n",
        "kvm",
    )
    assert (hop.host, hop.port, hop.user) == ("box.lan", 2222, "admin")
    assert hop.identity_files == (Path("/keys/one"), Path("/keys/two"))
    assert hop.identities_only
    assert hop.known_as == "cluster"
    assert Path("/known/one") in hop.known_hosts
    assert hop.jump is None


def test_address_wins_over_alias_and_settings_over_both(resolve_in: Resolve) -> None:
    config = "Host kvm\n HostName box.lan\n User admin\n Port 2222\n"
    assert resolve_in(config, "me@kvm:23").address == "me@box.lan:23"
    assert resolve_in(config, "me@kvm:23", user="you", port=24).address == "you@box.lan:24"


def test_keys_of_the_settings_come_first(resolve_in: Resolve) -> None:
    hop = resolve_in("Host kvm\n IdentityFile /keys/one\n", "kvm", identity_files=(Path("/mine"),))
    assert hop.identity_files == (Path("/mine"), Path("/keys/one"))


def test_our_known_hosts_come_first(resolve_in: Resolve, tmp_path: Path) -> None:
    assert resolve_in("", "kvm").known_hosts[0] == tmp_path / "known"


def test_jump_through_two_hosts(resolve_in: Resolve) -> None:
    hop = resolve_in(
        "Host kvm\n HostName 10.1.1.1\n ProxyJump first,me@second:2200\n"
        "Host second\n HostName second.lan\n ProxyJump ignored\n"
        "Host first\n HostName first.lan\n User jumper\n",
        "root@kvm",
    )
    assert hop.address == "root@10.1.1.1"
    assert hop.jump is not None
    assert hop.jump.jump is not None
    assert hop.jump.address == "me@second.lan:2200"
    assert hop.jump.jump.address == "jumper@first.lan"
    assert hop.jump.jump.jump is None
    assert hop.jump.is_jump
    assert not hop.is_jump


def test_jump_host_has_a_jump_of_its_own(resolve_in: Resolve) -> None:
    hop = resolve_in("Host kvm\n ProxyJump outer\nHost outer\n User u\n ProxyJump u@gate\n", "kvm")
    assert hop.jump is not None
    assert hop.jump.jump is not None
    assert hop.jump.jump.host == "gate"


def test_circle(resolve_in: Resolve) -> None:
    with pytest.raises(ConfigError, match="more than 8"):
        resolve_in("Host a\n ProxyJump b\nHost b\n ProxyJump a\n", "a")


def test_no_jump(resolve_in: Resolve) -> None:
    assert resolve_in("Host a\n ProxyJump none\nHost *\n ProxyJump gate\n", "a").jump is None


def test_proxy_command(resolve_in: Resolve) -> None:
    hop = resolve_in(
        "Host kvm\n HostName box.lan\n Port 23\n User me\n ProxyCommand nc %h %p # %r %%\n", "kvm"
    )
    assert hop.proxy_command == "nc box.lan 23 # me %"


def test_file_that_makes_no_sense(resolve_in: Resolve) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        resolve_in("Match\n", "kvm")


def test_no_file(tmp_path: Path) -> None:
    for config_file in (None, tmp_path / "none"):
        hop = resolve(SshSettings("host1", "me@box", tmp_path / "known", config_file=config_file))
        assert hop.address == "me@box"
        assert hop.known_as == "box"


def test_included_file(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("Host kvm\n HostName box.lan\n")
    config = tmp_path / "config"
    config.write_text(f"Include {tmp_path}/more\n")
    assert resolve(SshSettings("host1", "kvm", tmp_path / "known", config_file=config)).host == "box.lan"
