"""URLs hold tokens and passwords; what is shown of them does not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

_HOST_SHOWN = re.compile(
    r"(?:apprise|form|gotify|http|json|mailto|matrix|mmost|ncloud|nctalk|ntfy|rocket|signal|xml)s?"
)
"""Of these a host stands after ://. Of others that may be a token already: tgram://TOKEN/CHAT."""
_HOST = re.compile(r"localhost|\[[0-9a-f:.]+\]|[a-z0-9-]+(?:\.[a-z0-9-]+)+")
_SHORTEST = 3


def place(url: str) -> str:
    """Scheme and host, where there is a host that holds no secret: `mailto://example.org/…`, `tgram://…`."""
    scheme = scheme_of(url)
    host = _host(url)
    return f"{scheme}://{host}/…" if host else f"{scheme}://…" if scheme else "…"


def scheme_of(url: str) -> str:
    """Empty when there is none."""
    match = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]{0,19})://", url)
    return match[1].lower() if match else ""


def without_secrets(text: str, url: str) -> str:
    """The text with all that is in the URL, but its scheme and host, replaced."""
    for part in sorted(set(_parts(url)), key=len, reverse=True):
        text = text.replace(part, "…")
    return text


def _host(url: str) -> str:
    scheme = scheme_of(url)
    if not _HOST_SHOWN.fullmatch(scheme):
        return ""
    rest = url.split("://", 1)[1]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2].lower()
    host = authority if authority.endswith("]") else re.sub(r":[0-9]*$", "", authority)
    if scheme.startswith("ntfy") and not re.search(r"/[^/?#]", rest):
        return ""  # ntfy://TOPIC
    return host if _HOST.fullmatch(host) else ""


def _parts(url: str) -> Iterator[str]:
    rest = url.strip().partition("://")[2] or url.strip()
    host = _host(url)
    known = {scheme_of(url), host, *host.split(".")}
    # as a whole, by its larger separators, and word by word: a library may quote any of these
    for separators in (r"[?#]", r"[/?#@&]", r"[/?#@&:=,;\s]"):
        for piece in (rest, *re.split(separators, rest)):
            for text in (piece, unquote(piece)):
                if len(text) >= _SHORTEST and text.lower() not in known:
                    yield text
