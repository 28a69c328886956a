from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.config.load import load, parse
from vmconsole.errors import ConfigError
from vmconsole.model.guest import Guest, GuestKind, GuestState

HERE = Path("/etc/vmconsole/config.toml")


def refused(text: str | bytes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(HERE, text.encode() if isinstance(text, str) else text)
    return caught.value


def guest(name: str, host: str = "kvm1") -> Guest:
    return Guest("11112222-0000", "1", name, host, GuestKind.VM, GuestState.RUNNING)


def test_values_arrive(good_config: Path) -> None:
    config = load(good_config)
    home = Path.home()
    assert config.host("kvm1").identity_files == (home / ".ssh/id_backup", good_config.parent / "keys/second")
    assert config.host("kvm2").connect_timeout == 10.0
    assert config.repository("main").location == str(good_config.parent / "repository")
    assert config.repository("main").chunk_size == 1 << 20
    assert config.repository("second").location == "ssh://borg@vault.example:2222/./vms"
    secret = config.repository("main").passphrase
    assert secret is not None
    assert secret.file == good_config.parent / "passphrase"


def test_groups_become_model_groups(good_config: Path) -> None:
    config = load(good_config)
    daily = config.group("daily")
    assert (daily.name, daily.repository) == ("daily", "main")
    assert daily.selector.why(guest("web-1")) == "name matches web-*"
    assert daily.selector.why(guest("db", "kvm2")) is None
    assert [group.name for group in config.groups()] == ["daily", "rest"]
    assert config.group("rest").repository == "second"


def test_limits_come_from_group_then_defaults(good_config: Path) -> None:
    config = load(good_config)
    assert (config.full_every("daily"), config.full_every("rest"), config.full_every()) == (7, 30, 30)
    daily = config.export_options(guest("web-1"), "daily")
    assert daily.exclude_disks == ("vdc", "vdb")
    assert (daily.freeze, daily.freeze_budget, daily.agent_timeout) == (True, 8.0, 5.0)
    assert config.export_options(guest("db"), "daily").exclude_disks == ("vdb",)
    assert config.export_options(guest("x"), "rest").freeze is False
    assert config.export_options(guest("x")).freeze is True


def test_unknown_names_list_what_there_is(good_config: Path) -> None:
    config = load(good_config)
    for lookup, name, near in ((config.group, "dialy", "daily"), (config.host, "kmv1", "kvm1")):
        with pytest.raises(ConfigError, match=f'Did you mean "{near}"') as caught:
            lookup(name)
        assert near in caught.value.hint


def test_default_repository() -> None:
    one = '[repositories.a]\nlocation="/a"\nencryption="none"\n'
    two = one + '[repositories.b]\nlocation="/b"\nencryption="none"\n'
    assert parse(HERE, one.encode()).default_repository() == "a"
    with pytest.raises(ConfigError, match="several repositories"):
        parse(HERE, two.encode()).default_repository()
    with pytest.raises(ConfigError, match="no repository yet"):
        parse(HERE, b"").default_repository()


def test_misspelt_field_names_file_line_and_remedy() -> None:
    error = refused('[hosts.kvm1]\nkind = "libvirt"\nadress = "root@kvm1"\n')
    assert error.message == f'{HERE} line 3: hosts.kvm1.adress: unknown field. Did you mean "address"?'
    assert error.hint == f"Edit the file: $EDITOR +3 {HERE}"
    assert error.exit_code == 2


def test_several_mistakes_are_listed_in_file_order() -> None:
    error = refused(
        '[hosts.kvm1]\nkind = "xen"\naddress = "a b"\nconnections = "2"\nconnect_timeout = "0 s"\n'
        '[hosts.Big]\nkind = "libvirt"\n'
        '[groups.g]\ntags = "x"\n[groups.h]\nexclude = ["a"]\n'
    )
    lines = error.message.splitlines()
    assert [line.split(": ")[0:2] for line in lines] == [
        [f"{HERE} line {number}", field]
        for number, field in (
            (2, "hosts.kvm1.kind"),
            (3, "hosts.kvm1.address"),
            (4, "hosts.kvm1.connections"),
            (5, "hosts.kvm1.connect_timeout"),
            (6, "hosts.Big"),
            (6, "hosts.Big.address"),
            (9, "groups.g.tags"),
            (10, "groups.h"),
        )
    ]
    assert "'libvirt' or 'proxmox'" in lines[0]
    assert "is missing" in lines[5]
    assert "put it in [ ]" in lines[6]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a = 1\na = 2\n", 2, "Cannot overwrite"),
        ("\n\nx == 1", 3, "column 4"),
        ("x = [1,\n", 1, "end of the file"),
        (b"a = 1\nb = '\xff'", 2, "UTF-8"),
        ("x = " + "[" * 20_000, 1, "nested too deeply"),
    ],
)
def test_broken_toml_has_a_line(text: str | bytes, line: int, what: str) -> None:
    error = refused(text)
    assert error.message.startswith(f"{HERE} line {line}: ")
    assert what in error.message


def test_windows_line_ends_are_fine() -> None:
    error = refused('[hosts.kvm1]\r\nkind = "libvirt"\r\naddress = "kvm1"\r\nx = 1\r\n')
    assert " line 4: hosts.kvm1.x: " in error.message


def test_passphrase_in_plain_text_is_refused_and_not_repeated() -> None:
    for value in (
        '"hunter2"',
        '{ file = "hunter2", env = "hunter2" }',
        '{ pass = "hunter2" }',
        '["hunter2"]',
    ):
        error = refused(f'[repositories.main]\nlocation = "/r"\npassphrase = {value}\n')
        assert " line 3: repositories.main.passphrase" in error.message
        assert "hunter2" not in repr((error.message, error.hint, error.__cause__))
    assert (
        "never stands in the configuration"
        in refused('[repositories.main]\nlocation = "/r"\npassphrase = "hunter2"\n').message
    )


def test_encryption_needs_a_passphrase() -> None:
    assert "needs a passphrase" in refused('[repositories.main]\nlocation = "/r"\n').message


REPOSITORY = '[repositories.main]\nlocation = "/r"\nencryption = "none"\n'
HOST = '[hosts.kvm1]\nkind = "libvirt"\naddress = "kvm1"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            REPOSITORY + '[groups.g]\nguests=["a"]\nrepository = "mian"',
            'repository "mian". Did you mean "main"?',
        ),
        (
            REPOSITORY + '[defaults]\nrepository = "other"',
            'defaults.repository: there is no repository "other"',
        ),
        (REPOSITORY + HOST + '[groups.g]\nhosts = ["kvm2"]', 'groups.g.hosts[0]: no host matches "kvm2"'),
        (REPOSITORY + HOST + '[groups.g]\nguests = ["b", "kmv1/a"]', "groups.g.guests[1]: no host matches"),
        ('[groups.g]\nguests = ["a"]', "has no repository to go to"),
        (
            REPOSITORY + REPOSITORY.replace("main", "b") + '[groups.g]\nguests = ["a"]',
            'groups.g: has no repository. Add repository = "…" here or under [defaults]',
        ),
    ],
)
def test_wrong_references_are_found_at_load(text: str, message: str) -> None:
    assert message in refused(text).message


@pytest.mark.parametrize(
    ("field", "bad", "good"),
    [
        ("chunk_size", ['"3 MiB"', '"32 KiB"', '"32 MiB"', "0", "true"], ['"64 KiB"', '"16 MiB"', "1048576"]),
        ("compression", ['"zstd,99"', '"gzip"', '"auto"'], ['"zstd"', '"auto,lzma,6"', '"none"', '"lz4"']),
        ("lock_wait", ['"soon"', "nan"], ['"0 s"', "5", '"1 h"']),
    ],
)
def test_repository_fields(field: str, bad: list[str], good: list[str]) -> None:
    for value in bad:
        assert f" line 4: repositories.main.{field}: " in refused(f"{REPOSITORY}{field} = {value}").message
    for value in good:
        parse(HERE, f"{REPOSITORY}{field} = {value}".encode())


@pytest.mark.parametrize(
    "location",
    [
        "host:/x",
        "borg@host:x",
        "http://host/x",
        "ssh://-oProxyCommand=x/y",
        "ssh://host",
        "/x/{now}",
        "",
        "a\\u0000b",
    ],
)
def test_locations_refused(location: str) -> None:
    text = f'[repositories.main]\nencryption = "none"\nlocation = "{location}"\n'
    assert " line 3: repositories.main.location: " in refused(text).message


@pytest.mark.parametrize(
    "address",
    ["kvm1", "root@kvm1.example", "root@kvm1:2222", "[::1]:22", "a@[fe80::1%eth0]", "backup-user@10.0.0.1"],
)
def test_addresses(address: str) -> None:
    parse(HERE, f'[hosts.h]\nkind = "libvirt"\naddress = "{address}"\n'.encode())


@pytest.mark.parametrize(
    "address", ["-oProxyCommand=x", "root@-x", "a b", "ssh://kvm1", "a@b@c", "", "::1", "kvm1:port"]
)
def test_addresses_refused(address: str) -> None:
    assert (
        " line 3: hosts.h.address: "
        in refused(f'[hosts.h]\nkind = "libvirt"\naddress = "{address}"\n').message
    )


def test_networks_of_the_other_kind_of_host() -> None:
    host = '[hosts.kvm1]\nkind = "libvirt"\naddress = "root@kvm1"\n'
    config = parse(HERE, f'{host}networks = {{ "vmbr0" = "default", "vmbr0.20" = "br20" }}\n'.encode())
    assert config.host("kvm1").networks == {"vmbr0": "default", "vmbr0.20": "br20"}
    for target in ("", "br0,tag=2", "a b", "/dev/null", "x" * 64):
        error = refused(f'{host}networks = {{ "vmbr0" = "{target}" }}\n')
        assert "kvm1" in error.message


def test_port_and_user_are_said_once() -> None:
    assert "keep one" in refused('[hosts.h]\nkind = "libvirt"\naddress = "h:22"\nport = 23').message
    assert "keep one" in refused('[hosts.h]\nkind = "libvirt"\naddress = "u@h"\nuser = "v"').message


def test_hostile_key_is_shown_escaped() -> None:
    error = refused('["\\u001b[31m\\u202e"]\n')
    assert "\x1b" not in error.message
    assert "\u202e" not in error.message
    assert "\\u001b" in error.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file") as caught:
        load(tmp_path / "none.toml")
    assert "vmconsole init" in caught.value.hint
    with pytest.raises(ConfigError, match="not a regular file"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Path("/proc/self/mem/config.toml"))


def all_name_a_line(content: bytes) -> bool:
    """Whether the content loads, or every mistake in it is said with file and line."""
    try:
        parse(HERE, content)
    except ConfigError as error:
        said = error.message.split("\n")
        if len(said) > 20:  # it stops there
            assert said.pop().startswith("… and ")
        return all(line.startswith(f"{HERE} line ") for line in said)
    return True


@given(st.text(max_size=200))
def test_any_text_loads_or_is_a_config_error(text: str) -> None:
    assert all_name_a_line(text.encode("utf-8", "surrogatepass"))


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "x", "1 s", "libvirt", "main"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "file"]), inner, max_size=2)
    ),
    max_leaves=3,
)


@given(
    st.dictionaries(
        st.sampled_from(["hosts", "repositories", "groups", "defaults", "state_dir", "x"]),
        st.dictionaries(
            st.sampled_from(["main", "a.b", "Ä", "repository"]),
            st.dictionaries(
                st.sampled_from(
                    ["kind", "address", "location", "passphrase", "guests", "exclude_disks", "port"]
                ),
                _values,
                max_size=4,
            )
            | _values,
            max_size=2,
        )
        | _values,
    )
)
def test_any_document_loads_or_is_a_config_error(document: dict[str, object]) -> None:
    import tomlkit

    def clean(value: object) -> object:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items() if item is not None}
        return [clean(item) for item in value if item is not None] if isinstance(value, list) else value

    text = tomlkit.dumps(clean(document))  # type: ignore[arg-type]  # a dict stays a dict
    assert all_name_a_line(text.encode())


# --- hosts of kind proxmox ---------------------------------------------------------------------

PVE = """\
[hosts.pve]
kind = "proxmox"
address = "root@pve1.example"
nodes = { pve2 = "root@10.0.0.2", PVE-3 = "pve3" }
fleecing = "local-lvm"
export = "qmp"
api = "https://pve1.example:8006"
api_token = { id = "backup@pve!vmconsole", env = "TOKEN" }
api_fingerprint = "SHA256:6A:09:E6:67:BB:67:AE:85:3C:6E:F3:72:A5:4F:F5:3A:51:0E:52:7F:9B:05:68:8C:1F:83:\
D9:AB:5B:E0:CD:19"
"""


def test_a_cluster() -> None:
    host = parse(HERE, PVE.encode()).host("pve")
    assert host.nodes == {"pve2": "root@10.0.0.2", "PVE-3": "pve3"}
    assert (host.fleecing, host.export) == ("local-lvm", "qmp")
    assert host.api_token is not None
    assert (host.api_token.id, host.api_token.env) == ("backup@pve!vmconsole", "TOKEN")
    assert host.api_fingerprint == "6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19"
    plain = parse(HERE, b'[hosts.pve]\nkind = "proxmox"\naddress = "pve1"\n').host("pve")
    assert (plain.nodes, plain.fleecing, plain.api, plain.export) == ({}, None, None, "auto")
    ca = PVE.replace("api_fingerprint", "api_ca").replace("SHA256:", "")
    assert parse(HERE, ca.encode()).host("pve").api_ca is not None


def proxmox(line: str) -> str:
    return f'[hosts.pve]\nkind = "proxmox"\naddress = "root@pve1"\n{line}\n'


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        (
            proxmox('export = "pull"'),
            "export",
            'not for hosts of kind "proxmox"; those take "auto", "vzdump", "qmp"',
        ),
        (
            proxmox('export = "vzdump"').replace("proxmox", "libvirt"),
            "export",
            'not for hosts of kind "libvirt"; those take "auto", "pull", "push", "snapshot"',
        ),
        (proxmox('export = "fast"'), "export", "must be 'auto'"),
        (proxmox('scratch = "/srv"'), "scratch", 'only for hosts of kind "libvirt"'),
        (proxmox('uri = "qemu:///system"'), "uri", "remove it"),
        (
            proxmox('fleecing = "x"').replace("proxmox", "libvirt"),
            "fleecing",
            'only for hosts of kind "proxmox"',
        ),
        (proxmox('nodes = { a = "b" }').replace("proxmox", "libvirt"), "nodes", "remove it"),
        (proxmox('fleecing = "a/b"'), "fleecing", "name of a storage, or an absolute folder"),
        (proxmox('fleecing = "/srv/../etc"'), "fleecing", "without .."),
        (proxmox('nodes = { "a b" = "x" }'), 'nodes."a b"', "a node's name"),
        (proxmox('nodes = { a = "x y" }'), "nodes.a", "user@host"),
        (proxmox('nodes = ["a"]'), "nodes", "must be a table"),
        (proxmox('api = "http://pve1:8006"'), "api", "https://HOST"),
        (proxmox('api = "https://pve1/api2"'), "api", "https://HOST"),
        (proxmox('api_fingerprint = "ab:cd"'), "api_fingerprint", "64 hexadecimal digits"),
        (proxmox('api_token = "secret"'), "api_token", "never stands in the configuration"),
        (proxmox('api_token = { id = "root", env = "T" }'), "api_token.id", "USER@REALM!NAME"),
        (proxmox('api_token = { env = "T" }'), "api_token.id", "is missing"),
        (proxmox('api_token = { id = "a@pve!b" }'), "api_token", "exactly one of file, command"),
        (proxmox('api_token = { id = "a@pve!b", file = "x", env = "T" }'), "api_token", "found file and env"),
        (proxmox('fleecng = "x"'), "fleecng", 'Did you mean "fleecing"?'),
        (proxmox('api_token = { id = "a@pve!b", fle = "x" }'), "api_token.fle", 'Did you mean "file"?'),
    ],
)
def test_mistakes_in_a_cluster_have_field_and_line(text: str, field: str, words: str) -> None:
    error = refused(text)
    assert f"line 4: hosts.pve.{field}: " in error.message
    assert words in error.message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('api = "https://pve1"', "api needs a token"),
        ('api_token = { id = "a@pve!b", env = "T" }', 'add api = "https://HOST:8006"'),
        (
            f'api = "https://pve1"\napi_token = {{ id = "a@pve!b", env = "T" }}\napi_ca = "x"\n'
            f'api_fingerprint = "{"ab" * 32}"',
            "keep one",
        ),
    ],
)
def test_fields_that_need_each_other(line: str, words: str) -> None:
    assert words in refused(proxmox(line)).message
