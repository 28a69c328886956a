"""The inventory over HTTPS with an API token, through proxmoxer. Backups never go this way: a token can
neither lock a guest nor reach its QEMU.

The certificate is verified: by the fingerprint that is pinned, else by a CA file (a copy of
/etc/pve/pve-root-ca.pem), else by the CAs this machine trusts. There is no way to switch that off.
proxmoxer and requests are imported when the first question is asked.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vmconsole.errors import GuestNotFound, HostKeyChanged, HostUnreachable, NotPermitted, ProtocolError
from vmconsole.hypervisors.proxmox.api import Api, failure, not_permitted
from vmconsole.hypervisors.proxmox.cluster import parse_status
from vmconsole.hypervisors.proxmox.guestconf import GuestConf, parse
from vmconsole.hypervisors.proxmox.identity import Place
from vmconsole.hypervisors.proxmox.inventory import (
    RESOURCES,
    STATUS,
    VERSION,
    Sighting,
    at_once,
    describe,
    own_jobs,
    told_guests,
    version_of,
)
from vmconsole.hypervisors.proxmox.loose import Record, flag, record, records, word
from vmconsole.model.guest import HostInventory

CONNECTIONS = 8
"""Questions at the same time; pveproxy has three workers unless configured."""
TIMEOUT = 30.0
PORT = 8006


@dataclass(frozen=True, slots=True)
class HttpsSettings:
    """url: `https://HOST`, on port 8006 unless it says another. token: `USER@REALM!NAME`; secret:
    fetches its value, when it is needed.

    fingerprint: SHA-256 of the certificate, hex with or without colons; empty: verify by CA.
    ca_file: None for the CAs this machine trusts.
    """

    host: str
    url: str
    token: str
    secret: Callable[[], str]
    ca_file: Path | None = None
    fingerprint: str = ""
    timeout: float = TIMEOUT


class HttpsApi:
    """An Api. Thread-safe: every thread has a connection of its own."""

    def __init__(self, settings: HttpsSettings) -> None:
        self._settings = settings
        self._local = threading.local()
        self._lock = threading.Lock()
        self._sessions: list[Any] = []
        self._secret = ""

    @property
    def name(self) -> str:
        return self._settings.host

    def get(self, path: str, **params: str | int) -> Any:
        from proxmoxer.core import ResourceException
        from requests.exceptions import RequestException, SSLError

        try:
            answer = self._resource()(path.strip("/")).get(**params)
        except ResourceException as error:
            raise self._refused(path, error.status_code, f"{error.content} {error.errors or ''}") from None
        except SSLError as error:
            raise self._untrusted(str(error)) from None
        except (RequestException, OSError) as error:
            raise self._unreachable(error) from None
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"{self._where} answered {path} with something else.") from error
        if isinstance(answer, dict) and isinstance(answer.get("errors"), bytes):
            # proxmoxer's way to say that it was no JSON
            raise ProtocolError(f"{self._where} answered {path} with something that is no JSON.")
        return answer

    def close(self) -> None:
        with self._lock:
            sessions, self._sessions = self._sessions, []
            self._local = threading.local()
        for session in sessions:
            session.close()

    @property
    def _where(self) -> str:
        return f"{self._settings.url} ({self._settings.host})"

    def _resource(self) -> Any:
        if not hasattr(self._local, "resource"):
            self._local.resource = self._connect()
        return self._local.resource

    def _connect(self) -> Any:
        from proxmoxer.backends.https import Backend
        from proxmoxer.core import ProxmoxResource
        from requests.adapters import HTTPAdapter

        settings = self._settings
        address = urlsplit(settings.url)
        user, _, token = settings.token.partition("!")
        with self._lock:
            self._secret = self._secret or settings.secret()
        backend = Backend(
            address.hostname or "",
            user=user,
            token_name=token,
            token_value=self._secret,
            port=address.port or PORT,
            verify_ssl=False if settings.fingerprint else str(settings.ca_file or _trusted_cas()),
            timeout=settings.timeout,
        )
        session = backend.get_session()
        session.trust_env = False  # no proxies, and no other CAs, from the environment
        session.max_redirects = 0
        if settings.fingerprint:
            adapter = HTTPAdapter()
            adapter.init_poolmanager(2, 2, assert_fingerprint=settings.fingerprint)
            session.mount("https://", adapter)
        with self._lock:
            self._sessions.append(session)
        return ProxmoxResource(
            base_url=backend.get_base_url(), session=session, serializer=backend.get_serializer()
        )

    def _refused(self, path: str, status: int, told: str) -> Exception:
        if status == 401:
            return NotPermitted(
                f"{self._where} does not accept the API token {self._settings.token}: {told.strip()}.",
                hint="Is it still there, and its secret right? On a node: pveum user token list "
                f"{self._settings.token.partition('!')[0]}",
                subject=self.name,
            )
        if status == 403 and "permission check failed" not in told.lower():
            return not_permitted("", host=self.name, what=f"GET {path}")
        return failure(f"{status} {told}".strip(), host=self.name, what=f"GET {path}", status=status)

    def _untrusted(self, told: str) -> HostKeyChanged:
        if self._settings.fingerprint:
            return HostKeyChanged(
                f"The certificate of {self._where} is not the one that is pinned by api_fingerprint.",
                hint="It may have been renewed, or somebody sits in between. Compare on the node: "
                "pvenode cert info",
                subject=self.name,
            )
        return HostKeyChanged(
            f"The certificate of {self._where} cannot be verified: {_short(told)}.",
            hint="Set api_ca to a copy of the node's /etc/pve/pve-root-ca.pem, or api_fingerprint to the "
            "SHA-256 fingerprint that `pvenode cert info` shows on the node.",
            subject=self.name,
        )

    def _unreachable(self, error: Exception) -> HostUnreachable:
        return HostUnreachable(
            f"{self._where} cannot be reached: {_short(str(error)) or type(error).__name__}.",
            hint="Is it up, and the port of its web interface (8006) open for this machine?",
            subject=self.name,
        )


def _trusted_cas() -> str | bool:
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


def _short(text: str) -> str:
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= 300 else line[:299] + "…"


def take_https_inventory(api: HttpsApi, host: str) -> HostInventory:
    """As take_inventory(), with one question more per guest. Raises NotPermitted naming the privilege."""
    require_audit(api)
    resources, status_answer, version, (unprotected, problems) = at_once(
        lambda: api.get(RESOURCES),
        lambda: api.get(STATUS),
        lambda: api.get(VERSION),
        lambda: own_jobs(api),
    )
    status = parse_status(status_answer, host)
    seen = records(resources)
    places = told_guests(seen)
    online = {node.name for node in status.nodes if node.online}
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="pve-api") as pool:
        reading = {place: pool.submit(_conf, api, place) for place in places if place.node in online}
        certificate = pool.submit(authority, api, status.asked)
        confs = {place: future.result() for place, future in reading.items()}
    gone = {place for place, conf in confs.items() if conf is None}
    return describe(
        Sighting(
            status=status,
            version=version_of(version),
            resources=tuple(item for item in seen if not gone.intersection(told_guests([item]))),
            unprotected=unprotected,
            confs={place: conf for place, conf in confs.items() if conf is not None},
            authority=certificate.result(),
            problems=problems,
        ),
        host,
    )


def require_audit(api: HttpsApi) -> None:
    """Without VM.Audit Proxmox lists no guests, and calls that an answer. Raises NotPermitted."""
    granted = record(api.get("/access/permissions"))
    if not any(flag(record(privileges).get("VM.Audit")) for privileges in granted.values()):
        raise not_permitted("/vms, VM.Audit", host=api.name, what="Listing guests")


def _conf(api: HttpsApi, place: Place) -> GuestConf | None:
    """None when the guest is gone by now."""
    try:
        answer = record(api.get(f"{place.api}/config", current=1))
    except GuestNotFound:
        return None
    return parse(conf_text(answer), place.kind)


def conf_text(answer: Record) -> str:
    """A configuration file with what the API says; what would not stay one line is left out."""
    lines = []
    for key, value in answer.items():
        text = word(value)
        if key not in ("digest", "description") and text and "\n" not in text and "\n" not in key:
            lines.append(f"{key}: {text}\n")
    return "".join(lines)


def authority(api: Api, node: str) -> str:
    """The cluster's CA certificate; empty when it is not told."""
    try:
        answer = records(api.get(f"/nodes/{node}/certificates/info"))
    except NotPermitted:
        return ""
    return next((word(item.get("pem")) for item in answer if item.get("filename") == "pve-root-ca.pem"), "")
