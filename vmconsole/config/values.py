"""The kinds of values that fields of the configuration take, each with its check.

Validation needs `context={"folder": Path}`: relative paths start from the configuration's folder.
Sizes come out in bytes, durations in seconds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo

from vmconsole.config.units import parse_duration, parse_size

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ADDRESS = re.compile(
    r"(?:[^\s@:/\[\]-][^\s@:/\[\]]*@)?(?:\[[0-9A-Fa-f:.%a-z]+\]|[^\s@:/\[\]-][^\s@:/\[\]]*)(?::[0-9]{1,5})?"
)
_NODE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


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


def _check_address(value: str) -> str:
    if not _ADDRESS.fullmatch(value):
        raise ValueError("must be user@host, user@host:port, or a name from ssh_config")
    return value


def _check_node(value: str) -> str:
    if not _NODE.fullmatch(value):
        raise ValueError("must be a node's name as Proxmox shows it")
    return value


def check_folder(value: str) -> str:
    """A folder on a host."""
    if not value.startswith("/") or ".." in value.split("/"):
        raise ValueError("must be an absolute path on the host, without ..")
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
Address = Annotated[Text, AfterValidator(_check_address)]
NodeName = Annotated[str, AfterValidator(_check_node)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_list)]
LocalPath = Annotated[Path, BeforeValidator(_expand)]
LocalPaths = Annotated[tuple[LocalPath, ...], BeforeValidator(_list)]
Size = Annotated[int, BeforeValidator(parse_size)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
PositiveDuration = Annotated[float, BeforeValidator(parse_duration), AfterValidator(_positive)]
Port = Annotated[int, Field(ge=1, le=65535)]
Location = Annotated[str, BeforeValidator(_check_location)]
"""Of a repository."""

RULES = ConfigDict(
    strict=True,
    extra="forbid",
    frozen=True,
    use_attribute_docstrings=True,
    hide_input_in_errors=True,  # an input may be a passphrase in the wrong place
)
"""Of every model of the configuration."""
