from __future__ import annotations

import threading

import pytest

from vmconsole.front.parallel import together


def test_answers_keep_the_order_of_the_questions():
    gates = {number: threading.Event() for number in range(4)}

    def work(number):
        # each waits for the next: only possible when all are asked at the same time
        if number < 3:
            assert gates[number + 1].wait(5)
        gates[number].set()
        return number * 10

    assert together(work, range(4)) == [0, 10, 20, 30]


def test_an_error_is_raised_after_all_have_answered():
    done = []

    def work(number):
        if number == 1:
            raise ValueError("no")
        done.append(number)

    with pytest.raises(ValueError, match="no"):
        together(work, range(3))
    assert sorted(done) == [0, 2]


def test_nobody_to_ask():
    assert together(str, []) == []
