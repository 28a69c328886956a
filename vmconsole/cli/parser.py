"""Argument parsing whose mistakes are UsageErrors like all others: what, which, and what to do next."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from vmconsole.errors import UsageError
from vmconsole.front.capabilities import planned

_CHOICE = re.compile(r"argument (\S+): invalid choice: '(.*?)'(?: \(.*)?", re.DOTALL)
_MISSING = re.compile(r"the following arguments are required: (.*)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """argparse offers no other way to report a mistake than to override error()."""

    def __init__(self, **options: Any) -> None:
        # A shortened option that works today means something else, or nothing, when more are added.
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        match = _CHOICE.fullmatch(message)
        if match and match[1] == "COMMAND" and (later := planned(match[2])):
            raise UsageError(later.sentence, hint=later.instead, subject=match[2])
        raise UsageError(self._sentence(message), hint=f"See: {self.prog} --help")

    def _sentence(self, message: str) -> str:
        if match := _CHOICE.fullmatch(message):
            what, given = match.groups()
            known = [str(choice) for choice in self._choices(what)]
            if what in ("COMMAND", "ACTION"):
                return f"There is no {what.lower()} {given!r}.{did_you_mean(given, known)}"
            return f"{what} cannot be {given!r}; it is one of: {', '.join(known)}."
        if match := _MISSING.fullmatch(message):
            if match[1] == "ACTION":
                return f"{self.prog} needs an action: {', '.join(str(c) for c in self._choices('ACTION'))}."
            return f"{self.prog} needs {match[1]}."
        return message[:1].upper() + message[1:] + ("" if message.endswith(".") else ".")

    def _choices(self, what: str) -> Iterable[object]:
        for action in self._actions:
            if what in (action.metavar, action.dest, "/".join(action.option_strings)):
                return action.choices or ()
        return ()

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Raises UsageError; SystemExit(0) for --help and --version."""
        args, rest = self.parse_known_args(argv)
        if not rest:
            return args
        verb = self.below(args)
        # argparse gives up on a list that options interrupt: `backup web-01 --full db-01`
        listed = next((a.dest for a in verb._actions if a.nargs in ("*", "+") and not a.option_strings), None)
        if listed is not None and not any(word.startswith("-") and word != "-" for word in rest):
            getattr(args, listed).extend(rest)
            return args
        raise verb.unknown(rest[0])

    def below(self, args: argparse.Namespace) -> Parser:
        """The parser of the command, and of its action, that the arguments name."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                chosen = action.choices.get(getattr(args, action.dest, None) or "")
                if isinstance(chosen, Parser):
                    return chosen.below(args)
        return self

    def unknown(self, word: str) -> UsageError:
        """About an argument that nobody asked for."""
        if not word.startswith("-"):
            return UsageError(f"{self.prog} does not take {word!r}.", hint=f"See: {self.prog} --help")
        option = word.split("=", 1)[0]
        known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        return UsageError(
            f"{self.prog} has no option {option}.{did_you_mean(option, known)}",
            hint=f"See: {self.prog} --help",
        )


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """` Did you mean 'backup'?`, or nothing."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def at_least_one(text: str) -> int:
    """An argument type."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return int(text)
