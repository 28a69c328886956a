from __future__ import annotations

import os
import signal
import time

import pytest

from vmconsole.cli.signals import clean_stop, interruptible
from vmconsole.interfaces import Cancel


@pytest.fixture(autouse=True)
def _heard():
    """As a program started by a shell has them; under nohup SIGHUP would be ignored, and stay so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number):
    os.kill(os.getpid(), number)
    # a signal is delivered between two steps of the interpreter
    time.sleep(0)


def wait_for(cancel):
    deadline = time.monotonic() + 5
    while not cancel.is_set():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_the_second_interrupts(number):
    cancel, told = Cancel(), []
    before = signal.getsignal(number)
    with clean_stop(cancel, lambda: told.append(1)):
        send(number)
        wait_for(cancel)
        assert cancel.reason == f"Stopped by {signal.Signals(number).name}."
        assert told == [1]
        with pytest.raises(KeyboardInterrupt):
            send(number)
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        cancel = Cancel()
        with interruptible(), clean_stop(cancel, lambda: None):
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert not cancel.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_outside_a_run_a_signal_interrupts_at_once(number):
    with interruptible(), pytest.raises(KeyboardInterrupt):
        send(number)


def test_a_stop_while_the_token_is_being_waited_on():
    cancel = Cancel()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    before = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        with clean_stop(cancel, lambda: None):
            cancel._event.wait(5)
        assert cancel.is_set()
    finally:
        signal.signal(signal.SIGALRM, before)
