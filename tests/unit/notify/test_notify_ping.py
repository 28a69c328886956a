from __future__ import annotations

import pytest

from vmconsole import __version__
from vmconsole.interfaces import Pinger
from vmconsole.notify.ping import HttpPinger, address


@pytest.fixture
def pinger() -> Pinger:
    return HttpPinger(limit=1.0, sleep=lambda seconds: None)


def test_start_end_and_failure(server, pinger):
    url = f"http://127.0.0.1:{server.port}/0b1c"
    assert all(pinger.ping("daily", url, word).ok for word in ("start", "", "fail"))
    assert [path for _, path, _ in server.got] == ["/0b1c/start", "/0b1c", "/0b1c/fail"]
    assert server.got[0][2] == f"vmconsole/{__version__}"


@pytest.mark.parametrize(
    ("url", "word", "called"),
    [
        ("https://hc.example/id/", "fail", "https://hc.example/id/fail"),
        ("https://hc.example/id?rid=7", "start", "https://hc.example/id/start?rid=7"),
        ("https://hc.example", "fail", "https://hc.example/fail"),
        ("https://hc.example/id/", "", "https://hc.example/id/"),
    ],
)
def test_words_go_into_the_path(url, word, called):
    assert address(url, word) == called


def test_one_bad_moment_is_not_a_failure(server, pinger):
    server.status = [503, 200]
    assert pinger.ping("daily", f"http://127.0.0.1:{server.port}/0b1c").ok
    assert len(server.got) == 2


def test_the_start_of_a_run_does_not_wait(server, pinger):
    server.status = [503, 200]
    assert not pinger.ping("daily", f"http://127.0.0.1:{server.port}/0b1c", "start").ok
    assert len(server.got) == 1


def test_what_went_wrong_is_said_without_the_id(server, closed_port, pinger):
    server.status = [404]
    done = pinger.ping("daily", f"http://127.0.0.1:{server.port}/0b1c")
    assert done.channel == "ping daily"
    assert done.problem == (
        "The watchdog of group daily at http://127.0.0.1/… was not reached: it answered 404."
    )
    refused = pinger.ping("daily", f"http://127.0.0.1:{closed_port}/0b1c")
    assert "Connection refused" in refused.problem
    assert "0b1c" not in done.problem + done.hint + refused.problem + refused.hint


def test_a_watchdog_that_hangs(server):
    server.hang = True
    done = HttpPinger(limit=0.2, sleep=lambda seconds: None).ping(
        "daily", f"http://127.0.0.1:{server.port}/0b1c"
    )
    assert "no answer within 0.2 s" in done.problem or "timed out" in done.problem


@pytest.mark.parametrize("url", ["http://[broken/0b1c", "http://a b/0b1c", "http://127.0.0.1:99999/0b1c"])
def test_an_impossible_address_is_a_problem_not_an_error(url, pinger):
    done = pinger.ping("daily", url)
    assert not done.ok
    assert "0b1c" not in done.problem
