"""Sending through Apprise, which knows mail, chats and push services. It is loaded when something is sent."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vmconsole.errors import VmconsoleError
from vmconsole.model.message import Delivery, Message, Tone
from vmconsole.model.words import visible, visible_lines
from vmconsole.notify.limit import TooSlow, within
from vmconsole.notify.secrecy import place, scheme_of, without_secrets

if TYPE_CHECKING:
    from apprise import NotifyBase

TIME_LIMIT = 30.0
_KNOWN_URLS = "All URLs that Apprise knows: https://appriseit.com"
_TYPES = {Tone.INFO: "INFO", Tone.GOOD: "SUCCESS", Tone.WARNING: "WARNING", Tone.BAD: "FAILURE"}
"""Names in Apprise's NotifyType, whose members are texts in 1.x and an Enum's in 2.x."""
_LONGEST_PROBLEM = 300

# What Apprise says only in its debug log, between URLs and payloads; the words themselves hold no secret.
_CAUSES = (
    ("Connection refused", "the connection was refused"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not one that is trusted here"),
    ("SSL", "no secure connection could be made"),
    ("Name or service not known", "its name is not known to the name server"),
    ("Temporary failure in name resolution", "the name server does not answer"),
    ("NameResolutionError", "its name is not known to the name server"),
    ("No route to host", "there is no way to it through the network"),
    ("Network is unreachable", "the network is not reachable"),
    ("timed out", "it did not answer in time"),
    ("Connection reset", "it broke the connection off"),
    ("Connection aborted", "it broke the connection off"),
    ("SMTP AUTH extension not supported", "it takes no user and password on this connection"),
    ("STARTTLS extension not supported", "it offers no encryption"),
    ("Authentication", "it does not accept the user or password"),
    ("(535", "it does not accept the user or password"),
)
_EXCEPTION = re.compile(r"[A-Za-z ]*Exception\b")
"""How such a line of the log begins; others hold the message itself, in which anything may stand."""


class AppriseChannel:
    """Implements interfaces.Channel. url: fetches the secret URL; it is asked for at every use and not kept."""

    def __init__(
        self, name: str, url: Callable[[], str], on: Collection[str], limit: float = TIME_LIMIT
    ) -> None:
        self.name = name
        self.on = frozenset(on)
        self._url = url
        self._limit = limit

    @property
    def place(self) -> str:
        try:
            return place(self._url())
        except VmconsoleError:
            return "…"

    def check(self) -> Delivery:
        return self._try(lambda url: self._understood(url) or Delivery(self.name))

    def send(self, message: Message) -> Delivery:
        return self._try(lambda url: self._understood(url) or self._send(url, message))

    def _try(self, work: Callable[[str], Delivery]) -> Delivery:
        """The URL may come from a program, and the rest is somebody else's code: neither may break a run."""
        url = ""
        try:
            url = self._url().strip()
            return within(self._limit, lambda: work(url))
        except VmconsoleError as error:
            return Delivery(self.name, error.message, error.hint)
        except TooSlow:
            return Delivery(
                self.name,
                f"{place(url)} did not take the message within {self._limit:g} s.",
                "Look at whether that server works and is reached from here.",
            )
        except Exception as error:  # noqa: BLE001 - a bug in a library is one channel's problem
            reason = visible(without_secrets(str(error), url))[:_LONGEST_PROBLEM]
            return Delivery(
                self.name, f"{place(url)} failed: {type(error).__name__} {reason}".rstrip(), _KNOWN_URLS
            )

    def _understood(self, url: str) -> Delivery | None:
        with _listening():
            if _service(url) is not None:
                return None
        kind = f" of the kind {scheme_of(url)}://" if scheme_of(url) else ""
        return Delivery(self.name, f"Its URL{kind} is not one that Apprise understands.", _KNOWN_URLS)

    def _send(self, url: str, message: Message) -> Delivery:
        from apprise import NotifyFormat, NotifyType

        service = _service(url)
        assert service is not None
        with _listening() as said:
            done = service.notify(
                title=visible(message.title),
                body=visible_lines(message.body),
                notify_type=getattr(NotifyType, _TYPES[message.tone]),
                body_format=NotifyFormat.TEXT,
            )
        if done:
            return Delivery(self.name)
        return Delivery(
            self.name,
            f"{place(url)} did not take the message: {_reason(said, url)}.",
            f"Put it right, then try: vmconsole notify test {self.name}",
        )


def _service(url: str) -> NotifyBase | None:
    import apprise

    # nothing on disk: a service must not leave tokens in a cache of its own
    asset = apprise.AppriseAsset(storage_mode="memory")
    made = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
    return made if isinstance(made, apprise.NotifyBase) else None


def _reason(said: list[logging.LogRecord], url: str) -> str:
    """A warning of Apprise, and a cause that its debug log hides."""
    exceptions = "\n".join(text for record in said if _EXCEPTION.match(text := record.getMessage()))
    cause = next((words for sign, words in _CAUSES if sign in exceptions), "")
    warnings = [record.getMessage() for record in said if record.levelno >= logging.WARNING]
    warning = visible(without_secrets(warnings[-1], url)) if warnings else ""
    if cause and ("onnection error" in warning or not warning):
        return cause
    text = re.sub(r"\s+", " ", warning).strip(" .")[:_LONGEST_PROBLEM]
    return f"{text} ({cause})" if text and cause else text or "it gave no reason"


@contextmanager
def _listening() -> Iterator[list[logging.LogRecord]]:
    """What Apprise logs in this thread, and nowhere else: its debug log holds URLs."""
    logger = logging.getLogger("apprise")
    logger.propagate = False
    said: list[logging.LogRecord] = []
    handler = _Listener(said)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


class _Listener(logging.Handler):
    def __init__(self, said: list[logging.LogRecord]) -> None:
        super().__init__()
        self._said = said
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._said.append(record)
