"""What is wrong in a configuration file, said so that it can be put right: file, line, field, remedy."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from vmconsole.config.lines import KeyPath, line_of
from vmconsole.config.schema import FileConfig
from vmconsole.errors import ConfigError

_MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. where: the path of the field; empty for the file as a whole."""

    where: KeyPath
    text: str


def as_error(path: Path, problems: Iterable[Problem], lines: Mapping[KeyPath, int]) -> ConfigError:
    """One error that lists all of them, in the order of the file."""
    placed = sorted(
        ((line_of(lines, problem.where), problem) for problem in problems), key=lambda pair: pair[0]
    )
    return error_at(
        path, [(line, f"{dotted(p.where)}: {p.text}" if p.where else p.text) for line, p in placed]
    )


def error_at(path: Path, found: list[tuple[int, str]]) -> ConfigError:
    """found: (line, what is wrong), at least one."""
    listed = [f"{path} line {line}: {text}" for line, text in found[:_MAX_LISTED]]
    if len(found) > _MAX_LISTED:
        listed.append(f"… and {len(found) - _MAX_LISTED} more.")
    return ConfigError(
        "\n".join(listed),
        hint=f"Edit the file: $EDITOR +{found[0][0]} {shlex.quote(str(path))}",
        subject=str(path),
    )


def dotted(where: KeyPath) -> str:
    """A path as TOML writes it; list items as [0]."""
    written = ""
    for part in where:
        if isinstance(part, int):
            written += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", part)
            # JSON escapes control and bidirectional characters, and TOML reads its strings
            name = part if bare else json.dumps(part)
            written += f".{name}" if written else name
    return written


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean "address"?`, or nothing."""
    near = _near(name, known)
    return f' Did you mean "{near[0]}"?' if near else ""


def _near(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)


def from_validation(error: ValidationError) -> list[Problem]:
    """Translate pydantic's findings. The values themselves are never repeated: one may be a secret."""
    problems = []
    guessed: set[Problem] = set()
    for item in error.errors(include_url=False, include_input=False):
        where = tuple(part for part in item["loc"] if part != "[key]")
        problems.append(Problem(where, _sentence(item["type"], where, item.get("ctx", {}), item["msg"])))
        if item["type"] == "extra_forbidden":
            near = _near(str(where[-1]), _fields_at(where[:-1]))
            guessed.update(Problem((*where[:-1], name), _WANTED["missing"]) for name in near)
    # a field that is there but misspelt is said once
    return [problem for problem in problems if problem not in guessed]


_WANTED = {
    "string_type": 'must be a text in quotes, such as "…".',
    "int_type": "must be a whole number.",
    "bool_type": "must be true or false.",
    "tuple_type": "must be a list in [ ].",
    "dict_type": "must be a table.",
    "model_type": "must be a table.",
    "path_type": "must be a path in quotes.",
    "missing": "is missing.",
}


def _sentence(kind: str, where: KeyPath, context: Mapping[str, Any], message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown field." + did_you_mean(str(where[-1]), _fields_at(where[:-1]))
    if kind == "literal_error":
        return f"must be {context['expected']}."
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = "at least" if kind == "greater_than_equal" else "at most"
        return f"must be {bound} {context.get('ge', context.get('le'))}."
    if kind in ("int_from_float", "int_parsing"):
        return _WANTED["int_type"]
    if kind in _WANTED:
        return _WANTED[kind]
    text = message.removeprefix("Value error, ")
    return text if text.endswith((".", ")")) else text + "."


def _fields_at(where: KeyPath) -> list[str]:
    """The fields that may stand in the table at this path."""
    model: Any = FileConfig
    for part in where:
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(str(part))
            model = _inner(field.annotation) if field else None
        elif get_origin(model) is dict:
            model = _inner(get_args(model)[1])
        else:
            return []
    if isinstance(model, type) and issubclass(model, BaseModel):
        return list(model.model_fields)
    return []


def _inner(annotation: Any) -> Any:
    """The model in `Model | None`."""
    if get_origin(annotation) is types.UnionType:
        return next((item for item in get_args(annotation) if item is not type(None)), None)
    return annotation
