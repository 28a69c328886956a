"""What could not be carried over, in sentences for the user."""

from __future__ import annotations

from collections.abc import Sequence

MAX_NOTES = 100
_MAX_LENGTH = 500


class Notes:
    """Each sentence once. Text from a description never reaches a terminal with its control characters."""

    def __init__(self) -> None:
        self._found: dict[str, None] = {}

    def add(self, sentence: str) -> None:
        clean = "".join(char if char.isprintable() else "?" for char in sentence)[:_MAX_LENGTH]
        if len(self._found) < MAX_NOTES:
            self._found[clean] = None

    def extend(self, sentences: Sequence[str]) -> None:
        for sentence in sentences:
            self.add(sentence)

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(self._found)
