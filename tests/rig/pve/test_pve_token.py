"""The inventory over HTTPS with an API token, limited and not, through the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pve.after import told
from pve.cluster import PveCluster, PveDiskSpec
from pve.guest import PveContainer, PveGuest
from pve.world import PveWorld

pytestmark = pytest.mark.rig

SMALL = (PveDiskSpec(size=8 << 20),)
REMEDY = (
    "Give it to the user or API token on the node, for all of an inventory: "
    "pveum acl modify / --roles PVEAuditor --tokens 'USER@REALM!TOKEN'"
)


def use_token(pve: PveCluster, world: PveWorld, *privileges: str, path: str = "/") -> None:
    """From now on the inventory comes over HTTPS."""
    name, _, secret = pve.token(f"console{len(privileges)}@pve", privileges, path).partition("=")
    file = world.folder / "token"
    file.touch(mode=0o600)
    file.write_text(secret + "\n")
    world.host_settings.update(
        api=pve.plane.url, api_ca=str(pve.plane.cafile), api_token={"id": name, "file": "token"}
    )
    world.configure()


@pytest.mark.parametrize(
    ("privileges", "path", "message"),
    [
        ((), "/", "Listing guests on pve needs the privilege VM.Audit on /vms."),
        (
            ("VM.Audit",),
            "/vms",
            "GET /cluster/backup-info/not-backed-up on pve needs the privilege Sys.Audit on /.",
        ),
    ],
)
def test_an_api_token_that_may_not(
    pve: PveCluster,
    pve_world: PveWorld,
    make_vm: Callable[..., PveGuest],
    privileges: tuple[str, ...],
    path: str,
    message: str,
) -> None:
    vm = make_vm(SMALL, start=False)
    use_token(pve, pve_world, *privileges, path=path)
    (host,) = pve_world.run("inventory", "--refresh", expect=20).document["hosts"]
    assert (host["reachable"], host["error"], host["guests"]) == (False, message, [])
    told(
        pve_world.backup(vm, expect=20),
        "HostUnreachable",
        f"There is no guest '{vm.uuid}' on the configured hosts. It may be on a host that is out of reach: {message}",
        "Check the host with: vmconsole host check pve",
    )
    checks = pve_world.run("host", "check", "pve", expect=1).document["checks"]
    (check,) = [item for item in checks if not item["ok"]]
    assert (check["detail"], check["remedy"]) == (message, REMEDY)

    pve_world.host_settings.clear()
    pve_world.configure()
    assert pve_world.backup(vm).point["consistency"] == "offline"


def test_an_api_token_that_may(
    pve: PveCluster,
    pve_world: PveWorld,
    make_vm: Callable[..., PveGuest],
    make_container: Callable[..., PveContainer],
) -> None:
    """The inventory is the same on both ways, and backups go over SSH."""
    vm, _ = make_vm(SMALL, start=False, node="pve2", more={"tags": "a;b"}), make_container()

    def look() -> dict[str, Any]:
        (host,) = pve_world.run("inventory", "--refresh").document["hosts"]
        for storage in host["storages"]:
            del storage["used"]  # others write to this machine's disk
        return dict(host)

    ssh = look()
    use_token(pve, pve_world, "VM.Audit", "Sys.Audit", "Datastore.Audit", "Pool.Audit")
    https = look()
    assert len(https["guests"]) == 2
    for part in ("guests", "storages", "warnings"):
        assert https[part] == ssh[part], part
    assert [(node["name"], node["online"]) for node in https["nodes"]] == [("pve1", True), ("pve2", True)]
    assert [
        check for check in pve_world.run("host", "check", "pve").document["checks"] if not check["ok"]
    ] == []
    assert pve_world.backup(vm).point["consistency"] == "offline"
