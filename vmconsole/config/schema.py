"""What may stand in the configuration file. The string under a field is its documentation; the
commented sample is made from these (sample.py).

Validation needs `context={"folder": Path}`: relative paths start from the configuration's folder.
Sizes come out in bytes, durations in seconds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from vmconsole.config.units import parse_duration, parse_size

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ADDRESS = re.compile(
    r"(?:[^\s@:/\[\]-][^\s@:/\[\]]*@)?(?:\[[0-9A-Fa-f:.%a-z]+\]|[^\s@:/\[\]-][^\s@:/\[\]]*)(?::[0-9]{1,5})?"
)
_NETWORK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_COMPRESSION = re.compile(
    r"(?:auto,)?(?:none|lz4|zstd(?:,(?:[1-9]|1[0-9]|2[0-2]))?|(?:zlib|lzma)(?:,[0-9])?)"
)
MIN_CHUNK = 64 << 10
MAX_CHUNK = 16 << 20


def _no_controls(value: str) -> str:
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise ValueError("must not hold control characters")
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError('a name is made of a-z, 0-9, ".", "_" and "-", and starts with a letter or digit')
    return value


def _expand(value: object, info: ValidationInfo) -> object:
    """`~` and paths relative to the configuration's folder."""
    if not isinstance(value, str):
        return value
    path = Path(_no_controls(value))
    try:
        path = path.expanduser()
    except RuntimeError:
        raise ValueError(f"there is no user {path.parts[0]} on this machine") from None
    folder = (info.context or {}).get("folder")
    return folder / path if folder else path


def _list(value: object) -> object:
    if isinstance(value, str):
        raise ValueError("must be a list: put it in [ ]")
    return tuple(value) if isinstance(value, list) else value


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("must be more than 0")
    return value


def _check_location(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    text = _no_controls(value)
    if "{" in text or "}" in text:
        raise ValueError("must not hold { or }: Borg would replace what is between them")
    if text.startswith("ssh://"):
        if not re.fullmatch(
            r"ssh://(?:[^@/:\s-][^@/:\s]*@)?(?:\[[0-9A-Fa-f:.]+\]|[^@/:\s-][^@/:\s]*)(?::[0-9]{1,5})?/.+",
            text,
        ):
            raise ValueError("a remote repository is ssh://USER@HOST:PORT/PATH")
        return text
    if "://" in text:
        raise ValueError("a repository is a local folder or ssh://USER@HOST:PORT/PATH")
    if re.match(r"[^/]*:", text):
        raise ValueError("a remote repository is written ssh://USER@HOST:PORT/PATH")
    return str(_expand(text, info))


Text = Annotated[str, AfterValidator(_no_controls)]
Name = Annotated[str, AfterValidator(_check_name)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_list)]
LocalPath = Annotated[Path, BeforeValidator(_expand)]
LocalPaths = Annotated[tuple[LocalPath, ...], BeforeValidator(_list)]
Size = Annotated[int, BeforeValidator(parse_size)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
PositiveDuration = Annotated[float, BeforeValidator(parse_duration), AfterValidator(_positive)]
Port = Annotated[int, Field(ge=1, le=65535)]

_RULES = ConfigDict(
    strict=True,
    extra="forbid",
    frozen=True,
    use_attribute_docstrings=True,
    hide_input_in_errors=True,  # an input may be a passphrase in the wrong place
)


class HostConfig(BaseModel):
    """A hypervisor reached over SSH."""

    model_config = _RULES

    kind: Literal["libvirt", "proxmox"]
    """What runs the guests there: "libvirt" or "proxmox"."""
    address: Text
    """user@host, user@host:port, or a name from your ssh_config."""
    port: Port | None = None
    """SSH port, when neither the address nor ssh_config says it."""
    user: Text | None = None
    """Login user, when neither the address nor ssh_config says it."""
    identity_files: LocalPaths = ()
    """Private keys to log in with; empty: those of ssh_config, the agent and ~/.ssh."""
    known_hosts: LocalPath | None = None
    """Trusted host keys; default: vmconsole's own file, filled by `vmconsole host trust`."""
    ssh_config: LocalPath | None = None
    """OpenSSH client configuration to read; default: ~/.ssh/config."""
    connect_timeout: PositiveDuration = 10.0
    """How long to wait for the connection."""
    command_timeout: PositiveDuration = 60.0
    """How long one command on the host may take."""
    uri: Text = "qemu:///system"
    """libvirt connection URI, as seen on the host."""
    scratch: Text = "/var/lib/libvirt/images"
    """Folder on the host for what guests overwrite while they are read."""
    scratch_reserve: Size = 1 << 30
    """Space in the scratch folder that a backup never uses."""
    export: Literal["auto", "pull", "push", "snapshot"] = "auto"
    """How disks leave the host: "auto" (the best it can do), "pull", "push" or "snapshot"."""
    connections: Annotated[int, Field(ge=1, le=16)] = 2
    """Connections per disk that read at the same time."""
    networks: dict[Text, Text] = Field(default_factory=dict)
    """Where network cards of guests from elsewhere go: old bridge or network (with .VLAN) = the one here."""

    @field_validator("networks")
    @classmethod
    def _check_networks(cls, value: dict[str, str]) -> dict[str, str]:
        for target in value.values():
            if not _NETWORK.fullmatch(target):
                raise ValueError(
                    'a network here is the name of a bridge or network, such as "default", "br0" or "vmbr0.20"'
                )
        return value

    @field_validator("address")
    @classmethod
    def _check_address(cls, value: str) -> str:
        if not _ADDRESS.fullmatch(value):
            raise ValueError("must be user@host, user@host:port, or a name from ssh_config")
        return value

    @field_validator("scratch")
    @classmethod
    def _check_scratch(cls, value: str) -> str:
        if not value.startswith("/") or ".." in value.split("/"):
            raise ValueError("must be an absolute path on the host, without ..")
        return value

    @model_validator(mode="after")
    def _say_things_once(self) -> HostConfig:
        if self.port and re.search(r"[^:\[]:[0-9]+$", self.address):
            raise ValueError("the port stands in address and in port: keep one")
        if self.user and "@" in self.address:
            raise ValueError("the user stands in address and in user: keep one")
        return self


class SecretConfig(BaseModel):
    """Where a passphrase comes from; never the passphrase itself."""

    model_config = _RULES

    file: LocalPath | None = None
    """A file that only you can read (mode 0600)."""
    command: Texts | None = None
    """A program and its arguments; the passphrase is what it prints."""
    env: Text | None = None
    """Name of an environment variable."""
    credential: Text | None = None
    """Name of a systemd credential (LoadCredential= or LoadCredentialEncrypted=)."""
    keyring: Text | None = None
    """SERVICE/USER in the desktop's keyring."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_text(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError(
                "a passphrase never stands in the configuration: write where it comes from, "
                'such as { file = "passphrase" } or { command = ["pass", "show", "borg"] }'
            )
        return value

    @field_validator("command")
    @classmethod
    def _check_command(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not value:
            raise ValueError('must name a program, such as ["pass", "show", "borg"]')
        return value

    @field_validator("env")
    @classmethod
    def _check_env(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("must be the name of an environment variable")
        return value

    @field_validator("credential")
    @classmethod
    def _check_credential(cls, value: str | None) -> str | None:
        if value is not None and (value in (".", "..") or "/" in value):
            raise ValueError("must be the name of a systemd credential, without /")
        return value

    @field_validator("keyring")
    @classmethod
    def _check_keyring(cls, value: str | None) -> str | None:
        if value is not None and not all(value.partition("/")):
            raise ValueError("must be SERVICE/USER")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> SecretConfig:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of file, command, env, credential, keyring (found {found})")
        return self


class RepositoryConfig(BaseModel):
    """A Borg repository."""

    model_config = _RULES

    location: Annotated[str, BeforeValidator(_check_location)]
    """A local folder, or ssh://USER@HOST:PORT/PATH."""
    encryption: Literal[
        "none",
        "authenticated",
        "authenticated-blake2",
        "repokey",
        "repokey-blake2",
        "keyfile",
        "keyfile-blake2",
    ] = "repokey-blake2"
    """Borg's encryption mode, used when the repository is made."""
    compression: Text = "zstd,3"
    """Borg's compression: none, lz4, zstd,LEVEL, zlib,LEVEL or lzma,LEVEL; also as in "auto,zstd,3"."""
    chunk_size: Size = 1 << 20
    """Disks are cut into pieces of this size, a power of two. After a change the next backups are full."""
    lock_wait: Duration = 600.0
    """How long to wait while another program holds the repository's lock."""
    rsh: Text | None = None
    """Command to use instead of `ssh`, as Borg's --rsh."""
    remote_path: Text | None = None
    """Path of `borg` on the repository's server, as Borg's --remote-path."""
    passphrase: SecretConfig | None = None
    """Where the passphrase comes from: exactly one of file, command, env, credential, keyring."""

    @field_validator("compression")
    @classmethod
    def _check_compression(cls, value: str) -> str:
        if not _COMPRESSION.fullmatch(value):
            raise ValueError('must be one of Borg\'s, such as "zstd,3", "lz4", "auto,zstd,6" or "none"')
        return value

    @field_validator("chunk_size")
    @classmethod
    def _check_chunk_size(cls, value: int) -> int:
        if not MIN_CHUNK <= value <= MAX_CHUNK or value & (value - 1):
            raise ValueError("must be a power of two from 64 KiB to 16 MiB")
        return value

    @model_validator(mode="after")
    def _encryption_needs_passphrase(self) -> RepositoryConfig:
        if self.encryption != "none" and self.passphrase is None:
            raise ValueError(
                f"encryption {self.encryption} needs a passphrase: "
                'add passphrase = { file = "…" }, { command = […] }, { env = "…" }, … '
                'or set encryption = "none"'
            )
        return self


class GroupConfig(BaseModel):
    """Guests that are backed up together: those that guests, tags or hosts names and exclude does not."""

    model_config = _RULES

    guests: Texts = ()
    """Names, host/name, or uuids; * and ? match, as in "web-*" or "kvm1/*"."""
    tags: Texts = ()
    """Every guest with one of these tags."""
    hosts: Texts = ()
    """Every guest on these hosts; * and ? match."""
    exclude: Texts = ()
    """Guests to leave out, written as in guests."""
    repository: Text | None = None
    """Where the restore points go; default: the repository in [defaults]."""
    exclude_disks: dict[Text, Texts] = Field(default_factory=dict)
    """Disks to leave out, by guest: { "db" = ["vdb"], "web-*" = ["vdc"] }."""
    full_every: Annotated[int, Field(ge=1)] | None = None
    """Read everything again after this many runs; default: as in [defaults]."""
    freeze: bool | None = None
    """Freeze guest file systems through the agent; default: as in [defaults]."""
    freeze_budget: PositiveDuration | None = None
    """Longest time a guest may stay frozen; default: as in [defaults]."""
    agent_timeout: PositiveDuration | None = None
    """How long to wait for the guest agent to answer; default: as in [defaults]."""

    @model_validator(mode="after")
    def _covers_something(self) -> GroupConfig:
        if not (self.guests or self.tags or self.hosts):
            raise ValueError('covers no guest: give guests, tags or hosts (hosts = ["*"] covers all)')
        return self


class DefaultsConfig(BaseModel):
    """What holds where a group says nothing."""

    model_config = _RULES

    repository: Text | None = None
    """Where restore points go; default: the only repository there is."""
    full_every: Annotated[int, Field(ge=1)] = 30
    """Read everything again after this many runs, to prove the increments."""
    freeze: bool = True
    """Freeze guest file systems through the agent, for application consistency."""
    freeze_budget: PositiveDuration = 10.0
    """Longest time a guest may stay frozen."""
    agent_timeout: PositiveDuration = 5.0
    """How long to wait for the guest agent to answer."""


class FileConfig(BaseModel):
    """The whole configuration file."""

    model_config = _RULES

    state_dir: LocalPath | None = None
    """Folder for vmconsole's memory; default: /var/lib/vmconsole for root, else ~/.local/state/vmconsole."""
    defaults: DefaultsConfig = DefaultsConfig()
    """What holds where a group says nothing."""
    hosts: dict[Name, HostConfig] = Field(default_factory=dict)
    """Hypervisors, each [hosts.NAME]."""
    repositories: dict[Name, RepositoryConfig] = Field(default_factory=dict)
    """Borg repositories, each [repositories.NAME]."""
    groups: dict[Name, GroupConfig] = Field(default_factory=dict)
    """Groups of guests, each [groups.NAME]."""
