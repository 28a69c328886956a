"""Change the configuration file as a careful person would: comments stay, the result is checked before
it replaces the file, and somebody else's change in between is noticed.
"""

from __future__ import annotations

import copy
import fcntl
import os
import secrets
import shlex
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AbstractTable

from vmconsole.config.load import parse, parse_toml, read
from vmconsole.config.problems import dotted
from vmconsole.config.settings import Config
from vmconsole.errors import ConfigError

SECTIONS = ("hosts", "repositories", "groups")
_SINGULAR = {"hosts": "host", "repositories": "repository", "groups": "group"}


class ConfigEditor:
    """One editing session: open, change, save. A file that is not there yet starts empty."""

    def __init__(self, path: Path, original: bytes | None, start: str = "") -> None:
        self._path = path
        self._original = original
        text = start if original is None else original.decode("utf-8")
        self._expected = parse_toml(path, text.replace("\r\n", "\n"))
        self._text = text

    @classmethod
    def open(cls, path: Path, *, start: str = "") -> ConfigEditor:
        """start: what a new file begins with. Raises ConfigError when the file is there but wrong."""
        if not path.exists():
            return cls(path, None, start)
        content = read(path)
        parse(path, content)
        return cls(path, content)

    @property
    def text(self) -> str:
        """The file as it would be saved."""
        return self._text

    def fields(self, section: str, name: str) -> Mapping[str, Any]:
        """A table as it stands in the file."""
        self._must_have(section, name)
        found: Mapping[str, Any] = copy.deepcopy(self._expected[section][name])
        return found

    def add(self, section: str, name: str, values: Mapping[str, Any]) -> None:
        """Add a table such as [hosts.kvm1]; values as TOML data, None left out. Refuses a taken name."""
        assert section in SECTIONS
        if name in self._expected.get(section, {}):
            raise ConfigError(
                f"{self._path}: there is already a {_SINGULAR[section]} {name!r}.",
                hint="Choose another name, or remove the other one first.",
                subject=name,
            )
        given = {key: _plain(value) for key, value in values.items() if value is not None}
        wanted = copy.deepcopy(self._expected)
        wanted.setdefault(section, {})[name] = given
        self._change(wanted, lambda text: _append_table(text, (section, name), given))

    def remove(self, section: str, name: str) -> None:
        """Remove a table with everything under it."""
        assert section in SECTIONS
        self._must_have(section, name)
        wanted = copy.deepcopy(self._expected)
        del wanted[section][name]

        def edit(text: str) -> str:
            document = tomlkit.parse(text)
            del _table(document, (section,))[name]
            return tomlkit.dumps(document)

        self._change(wanted, edit)

    def set(self, section: str, name: str, changes: Mapping[str, Any], within: tuple[str, ...] = ()) -> None:
        """Set fields of a table that is there, or of the one that lies within it; None removes a field."""
        assert section in SECTIONS
        self._must_have(section, name)
        wanted = copy.deepcopy(self._expected)
        plain = {key: _plain(value) for key, value in changes.items()}
        where = (section, name, *within)
        try:
            _apply(_table(wanted, where), plain)
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"{self._path}: there is no [{dotted(where)}].",
                hint="Look at what is there: vmconsole group show " + name,
                subject=name,
            ) from error

        def edit(text: str) -> str:
            document = tomlkit.parse(text)
            _apply(_table(document, where), {k: _inline(v) for k, v in plain.items()})
            return tomlkit.dumps(document)

        self._change(wanted, edit)

    def save(self) -> Config:
        """Check, then replace the file in one step. Raises ConfigError and leaves the file as it was."""
        config = parse(self._path, self._text.encode())
        # a link to a file kept elsewhere stays a link
        target = self._path.resolve()
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(target.parent):
                self._refuse_foreign_change()
                _replace(target, self._text.encode())
        except OSError as error:
            raise ConfigError(
                f"{self._path} cannot be written: {error.strerror}.",
                hint=f"Look at the folder's owner, mode and space: ls -ld {shlex.quote(str(target.parent))}",
                subject=str(self._path),
            ) from error
        self._original = self._text.encode()
        return config

    def _refuse_foreign_change(self) -> None:
        try:
            now: bytes | None = self._path.read_bytes()
        except FileNotFoundError:
            now = None
        if now != self._original:
            raise ConfigError(
                f"{self._path} was changed by somebody else in the meantime; nothing was saved.",
                hint="Look at the file and do it again.",
                subject=str(self._path),
            )

    def _must_have(self, section: str, name: str) -> None:
        if name not in self._expected.get(section, {}):
            known = ", ".join(self._expected.get(section, {})) or "none"
            raise ConfigError(
                f"{self._path}: there is no {_SINGULAR[section]} {name!r}.",
                hint=f"There are: {known}.",
                subject=name,
            )

    def _change(self, wanted: dict[str, Any], edit: Callable[[str], str]) -> None:
        """Take over what edit returns, but only when it says exactly what was wanted.

        tomlkit has lost or moved keys in unusual layouts; such a file is for a person to edit.
        """
        try:
            text = _keep_line_ends(self._text, edit(self._text))
            done = tomllib.loads(text.replace("\r\n", "\n"))
        except (TOMLKitError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, AttributeError):
            done = None
        if done is None or _without_empty(done) != _without_empty(wanted):
            raise ConfigError(
                f"{self._path} is laid out in a way that cannot be edited safely; nothing was changed.",
                hint="Edit the file by hand.",
                subject=str(self._path),
            )
        self._text, self._expected = text, done


def _keep_line_ends(before: str, after: str) -> str:
    """tomlkit writes line feeds; a file that had none but Windows' line ends keeps those."""
    if "\r\n" not in before or "\n" in before.replace("\r\n", ""):
        return after
    return after.replace("\r\n", "\n").replace("\n", "\r\n")


def _append_table(text: str, where: tuple[str, str], values: Mapping[str, Any]) -> str:
    """Write the new table at the end, where it cannot disturb what is there."""
    lines = [f"[{dotted(where)}]"]
    for key, value in values.items():
        lines.append(f"{dotted((key,))} = {tomlkit.item(_inline(value)).as_string()}")
    before = text.rstrip()
    return (before + "\n\n" if before else "") + "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    """What tomllib would read back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _inline(value: Any) -> Any:
    """Tables as { … }, which is what a person would write."""
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        for key, item in value.items():
            table.append(key, _inline(item))
        return table
    return [_inline(item) for item in value] if isinstance(value, list) else value


def _table(document: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        document = document[name]
        if not isinstance(document, (AbstractTable, Mapping)):
            raise TypeError(f"{name} is not a table")
    return document


def _apply(table: Any, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            if key in table:
                del table[key]
        else:
            table[key] = value


def _without_empty(document: Mapping[str, Any]) -> dict[str, Any]:
    """A section with nothing left in it may stay or go."""
    return {k: v for k, v in document.items() if not (k in SECTIONS and v == {})}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two of us never replace the file at the same time. The lock ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    """After a crash at any point the old or the new file is there, whole."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _keep_owner_and_mode(path, descriptor)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _keep_owner_and_mode(path: Path, descriptor: int) -> None:
    """A new file is the owner's alone (0600); an old one keeps its group's right to read, no more."""
    try:
        old = path.stat()
    except FileNotFoundError:
        return
    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        try:
            os.fchown(descriptor, old.st_uid, old.st_gid)
        except PermissionError:
            return
    os.fchmod(descriptor, 0o600 | (stat.S_IMODE(old.st_mode) & 0o040))


class ConfigChanger:
    """One change at a time, checked and written at once; without save only checked. changed: called after each."""

    def __init__(self, path: Path, changed: Callable[[], None]) -> None:
        self._path = path
        self._changed = changed

    def fields(self, section: str, name: str) -> Mapping[str, Any]:
        return self._open().fields(section, name)

    def add(self, section: str, name: str, values: Mapping[str, Any], *, save: bool = True) -> Config:
        editor = self._open(start="# vmconsole: see `vmconsole --help` and the README\n")
        editor.add(section, name, values)
        return self._done(editor, save=save)

    def set(
        self,
        section: str,
        name: str,
        changes: Mapping[str, Any],
        *,
        within: tuple[str, ...] = (),
        save: bool = True,
    ) -> Config:
        editor = self._open()
        editor.set(section, name, changes, within)
        return self._done(editor, save=save)

    def remove(self, section: str, name: str) -> None:
        editor = self._open()
        editor.remove(section, name)
        self._done(editor, save=True)

    def _open(self, start: str = "") -> ConfigEditor:
        return ConfigEditor.open(self._path, start=start)

    def _done(self, editor: ConfigEditor, *, save: bool) -> Config:
        if not save:
            return parse(self._path, editor.text.encode())
        config = editor.save()
        self._changed()
        return config
