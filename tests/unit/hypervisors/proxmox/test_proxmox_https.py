"""The inventory over HTTPS, against a fake of Proxmox's API that checks what it is asked by its schema."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fakepve", reason="fakepve is not installed")

from fakepve import FakePve
from fakepve.certs import make_cert

from vmconsole.errors import (
    CommandFailed,
    GuestNotFound,
    HostKeyChanged,
    HostUnreachable,
    NotPermitted,
    ProtocolError,
    VmconsoleError,
)
from vmconsole.hypervisors.proxmox.checks import check_api
from vmconsole.hypervisors.proxmox.guestconf import parse
from vmconsole.hypervisors.proxmox.https import (
    HttpsApi,
    HttpsSettings,
    authority,
    conf_text,
    take_https_inventory,
)
from vmconsole.hypervisors.proxmox.identity import cluster_identity
from vmconsole.model.guest import Guest, GuestKind, GuestState, HostInventory, Tracking

# The fake's own server does not close a connection whose handshake the client broke off.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

UUID = "8c7e5a52-5d3a-4c0e-9e55-5d3b0f3f7a01"
TOKEN = "backup@pve!console"
SECRET = "11111111-2222-3333-4444-555555555555"
AUDIT = {"VM.Audit", "Sys.Audit", "Datastore.Audit", "Pool.Audit"}


class Server:
    """A fake, listening on a free port of loopback with a certificate of its own."""

    def __init__(self, folder: Path) -> None:
        self.pve = FakePve(host="127.0.0.1", port=0)
        self.certificate, key, der = make_cert(str(folder))
        self.fingerprint = hashlib.sha256(der).hexdigest()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call(self.pve.start(self.certificate, key))

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def stop(self) -> None:
        self._call(self.pve.stop())
        self._call(asyncio.sleep(0.3))  # connections over TLS take their time to close
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("fakepve"))
    yield made
    made.stop()
    gc.collect()  # what the server left is told now, not in somebody else's test


@pytest.fixture
def server(listening: Server) -> Server:
    """pve1 with a VM, pve2 with a container and a template, pve3 offline with a VM; one token that may read."""
    pve = listening.pve
    fresh = FakePve()
    for name in ("vms", "cts", "nodes", "failures", "network", "requests", "pools"):
        setattr(pve, name, getattr(fresh, name))
    pve.apitokens = {TOKEN: SECRET}
    pve.acl = {TOKEN: [("/", AUDIT)]}
    pve.add_node("pve2")
    pve.add_node("pve3", online=False)
    web = pve.add_vm(
        100, "web", node="pve1", status="running",
        config={
            "name": "web", "agent": "1", "scsi0": "local-lvm:vm-100-disk-0,size=32G", "tags": "prod;web",
            "scsi1": "local-lvm:vm-100-disk-1,backup=0,size=1G", "smbios1": f"uuid={UUID}", "memory": 4096,
            "description": "two\nscsi9: forged:disk,size=1G",
        },
    )  # fmt: skip
    web.ha_state = "started"
    pve.add_vm(
        9000, "golden", node="pve2", config={"template": 1, "scsi0": "local-lvm:base-9000-disk-0,size=2G"}
    )
    pve.add_vm(103, "away", node="pve3", config={"scsi0": "local-lvm:vm-103-disk-0,size=1G"})
    pve.add_ct(
        101, "dns", node="pve2", config={"hostname": "dns", "rootfs": "local-lvm:vm-101-disk-0,size=4G"}
    )
    return listening


@pytest.fixture
def make(server: Server) -> Iterator[Any]:
    """Makes clients, and closes them."""
    made: list[HttpsApi] = []

    def start(**changes: Any) -> HttpsApi:
        values: dict[str, Any] = {
            "host": "pve", "url": server.pve.url, "token": TOKEN, "secret": lambda: SECRET,
            "fingerprint": server.fingerprint, "timeout": 5.0,
        } | changes  # fmt: skip
        made.append(HttpsApi(HttpsSettings(**values)))
        return made[-1]

    yield start
    for api in made:
        api.close()


def by_id(seen: HostInventory) -> dict[str, Guest]:
    return {guest.id: guest for guest in seen.guests}


def test_the_whole_cluster(server: Server, make: Any) -> None:
    seen = take_https_inventory(make(), "pve")
    guests = by_id(seen)
    assert sorted(guests) == ["100", "101", "103", "9000"]
    web, dns, away, golden = (guests[vmid] for vmid in ("100", "101", "103", "9000"))
    assert (web.uuid, web.name, web.node, web.state, web.ha) == (
        UUID,
        "web",
        "pve1",
        GuestState.RUNNING,
        "started",
    )
    assert (web.tags, web.agent) == (("prod", "web"), True)
    assert [(disk.id, disk.size, disk.included, disk.tracking) for disk in web.disks] == [
        ("scsi0", 32 << 30, True, Tracking.BITMAP),
        ("scsi1", 1 << 30, False, Tracking.NONE),
    ]
    assert (dns.kind, dns.disks[0].id, dns.disks[0].size) == (GuestKind.CONTAINER, "rootfs", 4 << 30)
    assert golden.template
    assert away.state is GuestState.OTHER
    assert any("cannot be read now" in warning for warning in away.warnings)
    assert [(node.name, node.online) for node in seen.nodes] == [
        ("pve1", True),
        ("pve2", True),
        ("pve3", False),
    ]
    assert seen.nodes[0].version == "9.0.10"
    assert {storage.name for storage in seen.storages} >= {"local-lvm"}
    assert len({guest.uuid for guest in seen.guests}) == 4


def test_only_what_is_needed_is_asked_and_only_read(server: Server, make: Any) -> None:
    take_https_inventory(make(), "pve")
    asked = [(method, path.removeprefix("/api2/json")) for method, path, _ in server.pve.requests]
    assert {method for method, _ in asked} == {"GET"}
    assert sorted(path for _, path in asked) == sorted([
        "/access/permissions", "/cluster/resources", "/cluster/status", "/version",
        "/cluster/backup-info/not-backed-up", "/nodes/pve1/certificates/info",
        "/nodes/pve1/qemu/100/config", "/nodes/pve2/qemu/9000/config", "/nodes/pve2/lxc/101/config",
    ])  # fmt: skip


def test_a_guest_that_goes_meanwhile_is_not_listed(server: Server, make: Any) -> None:
    server.pve.fail("GET", "/qemu/100/config", status=500,
                    message="Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist")  # fmt: skip
    assert sorted(by_id(take_https_inventory(make(), "pve"))) == ["101", "103", "9000"]


# --- trust ------------------------------------------------------------------------------------


def test_a_pinned_fingerprint_in_any_notation(server: Server, make: Any) -> None:
    upper = ":".join(server.fingerprint[at : at + 2] for at in range(0, 64, 2)).upper()
    for text in (server.fingerprint, upper):
        assert make(fingerprint=text).get("/version")["release"] == "9.0"


def test_another_certificate_than_the_pinned_one(server: Server, make: Any) -> None:
    asked = len(server.pve.requests)
    with pytest.raises(HostKeyChanged, match="is not the one that is pinned") as caught:
        make(fingerprint="ab" * 32).get("/version")
    assert "pvenode cert info" in caught.value.hint
    assert len(server.pve.requests) == asked, "the token was sent to a stranger"


def test_a_ca_file(server: Server, make: Any, tmp_path: Path) -> None:
    assert make(fingerprint="", ca_file=Path(server.certificate)).get("/version")
    (tmp_path / "other").mkdir()
    stranger, _, _ = make_cert(str(tmp_path / "other"))
    with pytest.raises(HostKeyChanged, match="cannot be verified"):
        make(fingerprint="", ca_file=Path(stranger)).get("/version")


def test_without_either_a_certificate_must_be_trusted_by_this_machine(server: Server, make: Any) -> None:
    with pytest.raises(HostKeyChanged, match="cannot be verified") as caught:
        make(fingerprint="").get("/version")
    assert "api_ca" in caught.value.hint
    assert "api_fingerprint" in caught.value.hint


def test_the_environment_changes_nothing(server: Server, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/none")
    assert make().get("/version")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", server.certificate)
    with pytest.raises(HostKeyChanged):
        make(fingerprint="").get("/version")


def test_the_secret_is_fetched_once_and_never_shown(server: Server, make: Any) -> None:
    fetched = []

    def secret() -> str:
        fetched.append(1)
        return SECRET

    api = make(secret=secret)
    assert not fetched
    take_https_inventory(api, "pve")
    assert len(fetched) == 1
    assert SECRET not in repr(api._settings)


# --- refusals ---------------------------------------------------------------------------------


def test_a_token_that_is_not_accepted(server: Server, make: Any) -> None:
    with pytest.raises(NotPermitted, match=r"does not accept the API token backup@pve!console") as caught:
        take_https_inventory(make(secret=lambda: "wrong"), "pve")
    assert "pveum user token list backup@pve" in caught.value.hint
    assert "wrong" not in caught.value.message


@pytest.mark.parametrize(
    ("granted", "words"),
    [
        ([], r"needs the privilege VM\.Audit on /vms"),
        ([("/", {"Sys.Audit"})], r"needs the privilege VM\.Audit on /vms"),
        ([("/vms", {"VM.Audit"})], r"needs the privilege Sys\.Audit on /\."),
    ],
)
def test_a_limited_token(server: Server, make: Any, granted: list[Any], words: str) -> None:
    server.pve.acl = {TOKEN: granted}
    with pytest.raises(NotPermitted, match=words) as caught:
        take_https_inventory(make(), "pve")
    assert "PVEAuditor" in caught.value.hint


def test_the_check_of_a_token(server: Server, make: Any) -> None:
    assert check_api(make()).ok
    for granted, words in (([], "VM.Audit"), ([("/vms", {"VM.Audit"})], "Sys.Audit")):
        server.pve.acl = {TOKEN: granted}
        found = check_api(make())
        assert not found.ok
        assert words in found.detail
        assert found.remedy


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        (500, "something broke", CommandFailed),
        (595, "No route to host", HostUnreachable),
        (596, "Connection timed out", HostUnreachable),
        (403, "Permission check failed (/vms/100, VM.Audit)", NotPermitted),
        (403, "no", NotPermitted),
        (500, "Configuration file 'nodes/pve1/qemu-server/1.conf' does not exist", GuestNotFound),
        (501, "Method 'GET /version' not implemented", CommandFailed),
    ],
)
def test_errors_of_the_api(
    server: Server, make: Any, status: int, message: str, error: type[VmconsoleError]
) -> None:
    server.pve.fail("GET", "/version", status=status, message=message)
    with pytest.raises(error) as caught:
        make().get("/version")
    assert caught.value.message.isprintable()


def test_nobody_there(make: Any) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(HostUnreachable, match="cannot be reached") as caught:
            make(url=url).get("/version")
    assert "8006" in caught.value.hint


def test_a_flaky_network(server: Server, make: Any) -> None:
    server.pve.network["drop_rate"] = 1.0
    with pytest.raises(HostUnreachable):
        make().get("/version")


def test_a_server_that_hangs(server: Server, make: Any) -> None:
    server.pve.network.update(hang_rate=1.0, hang_secs=1)
    with pytest.raises(HostUnreachable):
        make(timeout=0.3).get("/version")


class Raw:
    """Answers every request with the same bytes, over TLS."""

    def __init__(self, folder: Path, answer: bytes) -> None:
        self.certificate, key, der = make_cert(str(folder))
        self.fingerprint = hashlib.sha256(der).hexdigest()
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(self.certificate, key)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self.seen = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    connection.recv(65536)
                    self.seen += 1
                    connection.sendall(self._answer)
            except OSError:
                continue

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


def http(status: str, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (http("200 OK", b"<html>login</html>"), ProtocolError),
        (http("200 OK", b'{"success":1}'), ProtocolError),
        (http("200 OK", b"[1]"), ProtocolError),
        (http("200 OK", b"\xff\xfe"), ProtocolError),
        (http("302 Found", b"", "Location: https://127.0.0.1:1/x"), HostUnreachable),
        (http("403 Permission check failed (/, Sys.Audit)", b"not json"), NotPermitted),
        (b"SSH-2.0-OpenSSH\r\n", HostUnreachable),
    ],
)
def test_servers_that_are_no_proxmox(
    tmp_path: Path, make: Any, answer: bytes, error: type[VmconsoleError]
) -> None:
    (tmp_path / "raw").mkdir()
    raw = Raw(tmp_path / "raw", answer)
    try:
        with pytest.raises(error):
            make(url=raw.url, fingerprint=raw.fingerprint).get("/version")
        assert raw.seen >= 1
    finally:
        raw.close()


class Certificates:
    """Stands for an API that answers one question."""

    name = "pve"

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def get(self, path: str, **params: Any) -> Any:
        assert path == "/nodes/pve1/certificates/info"
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def test_a_cluster_is_the_same_over_both_ways() -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMIIB\nAAAA\n-----END CERTIFICATE-----\n"
    answer = [
        {"filename": "pve-ssl.pem", "pem": "x"},
        {"filename": "pve-root-ca.pem", "pem": pem.replace("\nAAAA", "AAAA")},
    ]
    told = authority(Certificates(answer), "pve1")
    assert cluster_identity(told, "a") == cluster_identity(f"noise\n{pem}", "b")
    assert authority(Certificates(NotPermitted("no")), "pve1") == ""
    assert authority(Certificates(None), "pve1") == ""


def test_a_configuration_from_the_api_stays_lines() -> None:
    text = conf_text({"name": "web", "memory": 4096, "description": "a\nlock: x", "digest": "d", "lxc": [["a", "b"]],
                      "tags": "x\nscsi0: forged", "evil\nlock: y": 1})  # fmt: skip
    assert text == "name: web\nmemory: 4096\n"
    assert parse(text, GuestKind.VM).lock == ""
