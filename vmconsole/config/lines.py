"""Where each key of a TOML document stands. tomllib keeps no positions, so this finds them.

Works on text that tomllib has accepted, which lets the scanner be small: it only has to find where
keys and values begin and end, never whether they are right.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

KeyPath = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"[ \t]*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}#\r\n]*")
_BASIC_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL_STRING = re.compile(r"'[^'\n]*'")
# up to two quotes may stand right before the closing three
_LONG_BASIC_STRING = re.compile(r'"""(?:[^\\]|\\.)*?"""(?:""?(?!"))?', re.DOTALL)
_LONG_LITERAL_STRING = re.compile(r"'''.*?'''(?:''?(?!'))?", re.DOTALL)


def find_lines(text: str) -> dict[KeyPath, int]:
    """Line, from 1, of every table, key and list item. Tables named twice keep the first line.

    text must be valid TOML with line feeds only, as tomllib sees it.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """The line of the path, or of the nearest thing around it; 1 when nothing is known."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 1


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self._line = 1
        self._counted = 0
        self._array_tables: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        while True:
            self._skip(_BLANK_LINES)
            if self.at >= len(self.text):
                return
            if self.text.startswith("[[", self.at):
                self.at += 2
                table = self._array_table(self._key())
                self.at += 2
            elif self.text[self.at] == "[":
                self.at += 1
                table = self._enter((), self._key())
                self.at += 1
            else:
                self._pair(table)

    def _array_table(self, key: list[str]) -> KeyPath:
        line = self._here()
        path = (*self._enter((), key[:-1]), key[-1])
        index = self._array_tables.get(path, -1) + 1
        self._array_tables[path] = index
        self.lines.setdefault(path, line)
        self.lines[(*path, index)] = line
        return (*path, index)

    def _enter(self, base: KeyPath, key: list[str]) -> KeyPath:
        """Note every table on the way; a step into a list of tables means its last one."""
        for name in key:
            base = (*base, name)
            self.lines.setdefault(base, self._here())
            if base in self._array_tables:
                base = (*base, self._array_tables[base])
        return base

    def _pair(self, table: KeyPath) -> None:
        key = self._key()
        path = table
        for name in key:
            path = (*path, name)
            self.lines.setdefault(path, self._here())
        self._skip(_BLANK)
        self.at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        first = self.text[self.at]
        if first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        elif first == '"':
            self._skip(_LONG_BASIC_STRING if self.text.startswith('"""', self.at) else _BASIC_STRING)
        elif first == "'":
            self._skip(_LONG_LITERAL_STRING if self.text.startswith("'''", self.at) else _LITERAL_STRING)
        else:
            self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self.at += 1
        index = 0
        while True:
            self._skip(_BLANK_LINES)
            if self.text[self.at] == "]":
                break
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self.lines[(*path, index)] = self._here()
            self._value((*path, index))
            index += 1
        self.at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        while True:
            self._skip(_BLANK_LINES)
            if self.text[self.at] == "}":
                break
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self._pair(path)
        self.at += 1

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._skip(_BLANK)
            for pattern in (_BARE_KEY, _BASIC_STRING, _LITERAL_STRING):
                match = pattern.match(self.text, self.at)
                if match:
                    break
            else:
                raise ValueError(f"not a key at character {self.at}")
            self.at = match.end()
            parts.append(_plain(match[0]))
            self._skip(_BLANK)
            if not self.text.startswith(".", self.at):
                return parts
            self.at += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"not TOML at character {self.at}")
        self.at = match.end()

    def _here(self) -> int:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line


def _plain(written: str) -> str:
    if written[0] == "'":
        return written[1:-1]
    if written[0] == '"':
        return str(tomllib.loads(f"key = {written}")["key"])
    return written
