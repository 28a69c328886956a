"""Read and check the configuration file. Every mistake is a ConfigError with file, line, field and remedy."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vmconsole.config.contradictions import contradictions
from vmconsole.config.lines import KeyPath, find_lines
from vmconsole.config.problems import Problem, as_error, did_you_mean, error_at, from_validation
from vmconsole.config.schema import FileConfig
from vmconsole.config.settings import Config
from vmconsole.errors import ConfigError

_MAX_BYTES = 4 << 20


def load(path: Path) -> Config:
    """Read one file. Relative paths in it start from its folder."""
    return parse(path, read(path))


def read(path: Path) -> bytes:
    """The file's bytes. Raises ConfigError when there are none to be had."""
    try:
        if not path.is_file() and path.exists():
            raise ConfigError(f"{path} is not a regular file.", hint="Name a TOML file.", subject=str(path))
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"There is no configuration file {path}.",
            hint="Make one with `vmconsole init`.",
            subject=str(path),
        ) from None
    except OSError as error:
        raise ConfigError(
            f"The configuration file {path} cannot be read: {error.strerror}.",
            hint=f"Look at its owner and mode: ls -l {shlex.quote(str(path))}",
            subject=str(path),
        ) from error
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{path} is larger than 4 MiB.", hint="Is this the right file?", subject=str(path))
    return content


def parse(path: Path, content: bytes) -> Config:
    """Check what read() returned. path is for messages and relative paths."""
    text = _decode(path, content)
    document = parse_toml(path, text)
    lines = _lines(text)
    try:
        file = FileConfig.model_validate(document, context={"folder": path.parent})
    except ValidationError as error:
        # not `from error`: its text could repeat what it checked
        raise as_error(path, from_validation(error), lines) from None
    wrong = [*_wrong_references(file), *contradictions(file)]
    if wrong:
        raise as_error(path, wrong, lines)
    return Config(path, file)


def parse_toml(path: Path, text: str) -> dict[str, Any]:
    """The document behind the text. Raises ConfigError with the line of a syntax error."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise error_at(path, [_syntax_error(str(error), text)]) from None
    except RecursionError:
        raise error_at(path, [(1, "the lists or tables in it are nested too deeply.")]) from None


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise error_at(path, [(line, "this is not UTF-8 text. Save the file as UTF-8.")]) from None


def _syntax_error(message: str, text: str) -> tuple[int, str]:
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if not match:
        return 1, f"not valid TOML: {message}."
    what = match[1]
    if match[2] is None:
        return text.rstrip("\n").count("\n") + 1, f"not valid TOML at the end of the file: {what}."
    return int(match[2]), f"not valid TOML at column {match[3]}: {what}."


def _lines(text: str) -> dict[KeyPath, int]:
    try:
        return find_lines(text)
    except (ValueError, IndexError, RecursionError):
        # a message without the right line is better than none
        return {}


def _wrong_references(file: FileConfig) -> Iterator[Problem]:
    """Names that stand for something that is not there."""
    yield from _wrong_repository(("defaults",), file.defaults.repository, file)
    for name, host in file.hosts.items():
        if host.uplink and host.uplink not in file.limits.uplinks:
            remedy = f"Add uplinks = {{ {host.uplink} = 2 }} under [limits], or take it away here."
            yield Problem(("hosts", name, "uplink"), f'there is no uplink "{host.uplink}". {remedy}')
    for name, group in file.groups.items():
        where = ("groups", name)
        yield from _wrong_repository(where, group.repository, file)
        no_default = file.defaults.repository is None and len(file.repositories) != 1
        if group.repository is None and no_default:
            yield Problem(
                where,
                'has no repository. Add repository = "…" here or under [defaults].'
                if file.repositories
                else "has no repository to go to. Add a [repositories.NAME] table.",
            )
        for index, pattern in enumerate(group.hosts):
            yield from _unmatched_host((*where, "hosts", index), pattern, file)
        for key in ("guests", "exclude"):
            for index, pattern in enumerate(getattr(group, key)):
                host, slash, _ = pattern.partition("/")
                if slash:
                    yield from _unmatched_host((*where, key, index), host, file)


def _wrong_repository(where: KeyPath, name: str | None, file: FileConfig) -> Iterator[Problem]:
    if name is None or name in file.repositories:
        return
    guess = did_you_mean(name, file.repositories)
    remedy = (
        guess
        or f" Add a [repositories.{name}] table, or name one of: {', '.join(file.repositories) or 'none'}."
    )
    yield Problem((*where, "repository"), f'there is no repository "{name}".{remedy}')


def _unmatched_host(where: KeyPath, pattern: str, file: FileConfig) -> Iterator[Problem]:
    if any(fnmatchcase(name, pattern) for name in file.hosts):
        return
    guess = did_you_mean(pattern, file.hosts)
    remedy = guess or f" The hosts are: {', '.join(file.hosts) or 'none'}."
    yield Problem(where, f'no host matches "{pattern}".{remedy}')
