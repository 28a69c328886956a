"""Asking several hosts at the same time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def together(work: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """The results, in the order of the items; the first error is raised once all have answered.

    The threads do not keep the process alive: Ctrl-C ends a wait for a host that hangs.
    """
    todo = list(items)
    answers: queue.SimpleQueue[tuple[int, _R | None, Exception | None]] = queue.SimpleQueue()

    def answer(number: int, item: _T) -> None:
        try:
            answers.put((number, work(item), None))
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits
            answers.put((number, None, error))

    for number, item in enumerate(todo):
        threading.Thread(target=answer, args=(number, item), name=f"ask-{number}", daemon=True).start()
    received = sorted((answers.get() for _ in todo), key=lambda each: each[0])
    for _, _, error in received:
        if error is not None:
            raise error
    return [result for _, result, _ in received]  # type: ignore[misc]  # None is then a result
