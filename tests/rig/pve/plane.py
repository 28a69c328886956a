"""The cluster's API: fakepve, which reads the guests, storages and states that really are there before each answer.

The tree of /etc/pve is the truth. What a request changes in fakepve's guests is written back to the tree.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fakepve import FakeCt, FakePve, FakeVm, PveError
from fakepve.certs import make_cert
from fakepve.server import ok

from pve.node import PveNode
from pve.tools import conf, storage, wire
from pve.tools.says import Died

_INTEGERS = ("cores", "sockets", "onboot", "template", "protection", "tablet", "unprivileged", "swap", "numa")


class RigPve(FakePve):  # type: ignore[misc]  # fakepve has no types
    """etc: the tree behind /etc/pve. nodes_by_name: the cluster's."""

    def __init__(self, etc: Path, nodes_by_name: Mapping[str, PveNode], version: str) -> None:
        super().__init__(host="127.0.0.1", port=0)
        self.etc = etc
        self.lab = nodes_by_name
        self.version, self.release_version = version, ".".join(version.split(".")[:2])
        self.nodes = {name: {"online": True} for name in nodes_by_name}
        self.cluster_name = "lab"
        self.unprotected: set[int] | None = None
        self._texts: dict[tuple[int, str, str], str] = {}

    # --- the tree and the guests ---

    async def _answer(self, request: Any, handler: Any, generic: Any, path_node: Any) -> Any:
        self.refresh()
        answer = await super()._answer(request, handler, generic, path_node)
        if request.method != "GET":
            self.write_back()
        return answer

    def refresh(self) -> None:
        now = {place: conf.path_of(*place, self.etc).read_text() for place in conf.all_guests(self.etc)}
        for place in [place for place in self._texts if place not in now]:
            self._forget(place)
        for place, text in now.items():
            if self._texts.get(place) != text:
                self._forget(place)
                self._learn(place, text)
        for guest in [*self.vms, *self.cts]:
            self._state(guest)
        self.storages = {name: self._describe(one) for name, one in storage.storages(self.etc).items()}

    def _learn(self, place: tuple[int, str, str], text: str) -> None:
        vmid, kind, node = place
        found = conf.parse(text)
        values: dict[str, Any] = {
            key: int(value) if key in _INTEGERS and value.isdigit() else value
            for key, value in found.values.items()
        }
        if found.comment:
            values["description"] = "".join(f"{line[1:]}\n" for line in found.comment.splitlines())
        pool = self._pool_of_vm(vmid)
        if kind == "qemu":
            guest = FakeVm(vmid, values.get("name", f"VM {vmid}"), node=node, config=values, pool=pool)
            guest.template, guest.lock = values.get("template") == 1, values.get("lock")
            guest.digest = lambda: conf.digest(text)
            guest.agent = {}
            self.vms.append(guest)
        else:
            guest = FakeCt(vmid, node=node, config=values, pool=pool, defaults=False)
            guest.digest = lambda: conf.digest(text)
            self.cts.append(guest)
        self._texts[place] = text

    def _forget(self, place: tuple[int, str, str]) -> None:
        vmid, kind, node = place
        self._texts.pop(place, None)
        if kind == "qemu":
            self.vms = [vm for vm in self.vms if (vm.vmid, vm.node) != (vmid, node)]
        else:
            self.cts = [ct for ct in self.cts if (ct.vmid, ct.node) != (vmid, node)]

    def _state(self, guest: Any) -> None:
        kind = "qemu" if isinstance(guest, FakeVm) else "lxc"
        node = self.lab[guest.node]
        on = node.running(guest.vmid, kind) if self.nodes[guest.node]["online"] else False
        if on and guest.started_at is None:
            guest.started_at = time.time()
        guest.status = "running" if on else "stopped"
        guest.started_at = guest.started_at if on else None
        if kind == "qemu":
            guest.qmpstatus = guest.status
            guest.stats = {"pid": node.pid(guest.vmid)} if on else {}
        elif on and guest.pid is None:
            guest.pid = 1

    def write_back(self) -> None:
        """Guests that a request made, changed or removed."""
        seen = set()
        for guest in [*self.vms, *self.cts]:
            kind = "qemu" if isinstance(guest, FakeVm) else "lxc"
            place = (guest.vmid, kind, guest.node)
            seen.add(place)
            values = {
                key: str(value) for key, value in guest.config.items() if key not in {"digest", "description"}
            }
            old = conf.parse(self._texts.get(place, ""))
            if values != old.values:
                path = conf.path_of(*place, self.etc)
                conf.write(path, conf.Conf(values, old.comment, old.rest).text)
        for place in [place for place in self._texts if place not in seen]:
            conf.path_of(*place, self.etc).unlink(missing_ok=True)
            self._texts.pop(place)

    # --- storages ---

    def _describe(self, one: storage.Storage) -> dict[str, Any]:
        told = {**one.options, "type": one.type, "active": 1, "files": set(), "volumes": {}}
        told.update({"shared": 1} if one.shared else {})
        return told

    def _figures(self, node: str, name: str) -> dict[str, Any]:
        """What a node says of a storage: real figures of its folder there."""
        one = storage.storages(self.etc)[name]
        at = self.lab[node].path("/")
        active = self.nodes[node]["online"] and one.active(at)
        total, used, free = storage.space(one, at) if active else (0, 0, 0)
        return {
            "storage": name, "type": one.type, "content": ",".join(one.content), "shared": int(one.shared),
            "enabled": int(not one.disabled), "active": int(active), "total": total, "used": used, "avail": free,
            **({"used_fraction": used / total} if total else {}),
        }  # fmt: skip

    async def _ns_list(self, v: Mapping[str, Any], user: str) -> list[dict[str, Any]]:
        return [
            self._figures(v["node"], name) for name, one in sorted(storage.storages(self.etc).items())
            if one.on(v["node"]) and self._can_audit(user, name) and v.get("storage", name) == name
            and ("content" not in v or set(v["content"].split(",")) & set(one.content))
        ]  # fmt: skip

    async def _ns_status(self, v: Mapping[str, Any], user: str) -> dict[str, Any]:
        if v["storage"] not in self.storages:
            raise PveError(500, f"storage '{v['storage']}' does not exist")
        figures = self._figures(v["node"], v["storage"])
        return {key: figures[key] for key in figures if key not in {"storage", "used_fraction"}}

    def _storage_resource(self, node: str, name: str) -> dict[str, Any] | None:
        if not storage.storages(self.etc)[name].on(node):
            return None
        figures = self._figures(node, name)
        return {
            "id": f"storage/{node}/{name}", "type": "storage", "storage": name, "node": node,
            "plugintype": figures["type"], "content": figures["content"], "shared": figures["shared"],
            "status": "available" if figures["active"] else "unknown",
            **({"disk": figures["used"], "maxdisk": figures["total"]} if figures["active"] else {}),
        }  # fmt: skip

    async def _content_list(self, v: Mapping[str, Any], user: str) -> list[dict[str, Any]]:
        one = storage.storages(self.etc).get(v["storage"])
        if one is None:
            raise PveError(500, f"storage '{v['storage']}' does not exist")
        if not one.on(v["node"]):
            raise PveError(500, f"storage '{one.name}' is not available on node '{v['node']}'")
        if not one.active(self.lab[v["node"]].path("/")):
            raise PveError(500, f"storage '{one.name}' is not online")
        return [
            {"volid": item.volid, "content": item.content, "format": item.format, "size": item.size,
             "used": item.used, "vmid": item.vmid}
            for item in storage.volumes(one, self.lab[v["node"]].path("/"))
            if int(v.get("vmid") or item.vmid) == item.vmid and v.get("content", item.content) == item.content
        ]  # fmt: skip

    # --- what really runs ---

    async def _cluster_status(self, request: Any) -> Any:
        asked = request.headers.get("X-Rig-Node") or next(iter(self.lab))
        told: list[dict[str, Any]] = []
        if len(self.lab) > 1:
            told.append({
                "type": "cluster", "id": "cluster", "name": self.cluster_name, "nodes": len(self.lab),
                "version": 5, "quorate": int(self.quorate),
            })  # fmt: skip
        for number, (name, node) in enumerate(sorted(self.lab.items()), 1):
            told.append({
                "type": "node", "id": f"node/{name}", "name": name, "nodeid": number if len(self.lab) > 1 else 0,
                "ip": node.address, "local": int(name == asked), "online": int(self.nodes[name]["online"]),
                "level": "",
            })  # fmt: skip
        return ok(told)

    async def _status_current(self, request: Any) -> Any:
        vm = self._vm(request, "VM.Audit")
        data = self._vm_status(vm)
        data.pop("running-machine", None), data.pop("running-qemu", None)
        if vm.status == "running":
            found = await asyncio.get_running_loop().run_in_executor(None, self._ask_qemu, vm.node, vm.vmid)
            data.update(found)
        return ok(data)

    def _ask_qemu(self, node: str, vmid: int) -> dict[str, Any]:
        """As pvestatd: what it cannot learn in three seconds is left out."""
        try:
            with wire.Qmp(self.lab[node].path(f"/run/qemu-server/{vmid}.qmp"), vmid, timeout=3.0) as qmp:
                version = qmp("query-version")["qemu"]
                kind = str(qmp("qom-get", path="/machine", property="type"))
                return {
                    "qmpstatus": qmp("query-status")["status"],
                    "running-qemu": f"{version['major']}.{version['minor']}.{version['micro']}",
                    "proxmox-support": qmp("query-proxmox-support"),
                    "running-machine": kind.removesuffix("-machine"),
                }  # fmt: skip
        except Died:
            return {}

    async def _agent_call(self, match: Any, values: Mapping[str, Any]) -> Any:
        vm = self.find(values["node"], values["vmid"])
        command = match.template.rsplit("/", 1)[1]
        if conf.properties(str(vm.config.get("agent", "0")), "enabled").get("enabled") != "1":
            raise PveError(500, "No QEMU guest agent configured")
        path = self.lab[vm.node].path(f"/run/qemu-server/{vm.vmid}.qga")
        ask = asyncio.get_running_loop().run_in_executor
        try:
            return {"result": await ask(None, wire.agent, path, vm.vmid, f"guest-{command}")}
        except Died as death:
            raise PveError(500, str(death)) from None

    async def _do_start(self, vm: Any, user: str, p: Any) -> Any:
        return await self._by_tool(vm, user, "qmstart", "start")

    async def _do_stop(self, vm: Any, user: str, p: Any) -> Any:
        return await self._by_tool(vm, user, "qmstop", "stop")

    async def _do_shutdown(self, vm: Any, user: str, p: Any) -> Any:
        return await self._by_tool(vm, user, "qmshutdown", "shutdown")

    async def _by_tool(self, vm: Any, user: str, kind: str, verb: str) -> Any:
        from fakepve import TaskError

        async def body() -> None:
            done = await asyncio.get_running_loop().run_in_executor(
                None, lambda: self.lab[vm.node].run("qm", verb, str(vm.vmid), check=False)
            )
            if done.returncode:
                raise TaskError(done.stderr.decode().strip())
            self.refresh()

        return await self.task(vm.node, kind, vm.vmid, user, body)

    def _routes_rig(self) -> list[tuple[str, str, Any]]:
        return [
            ("GET", "/cluster/backup-info/not-backed-up", self._not_backed_up),
            ("GET", "/nodes/{node}/certificates/info", self._certificates),
        ]

    async def _certificates(self, v: Mapping[str, Any], user: str) -> list[dict[str, Any]]:
        return [{"filename": "pve-root-ca.pem", "pem": (self.etc / "pve-root-ca.pem").read_text()}]

    async def _not_backed_up(self, v: Mapping[str, Any], user: str) -> list[dict[str, Any]]:
        """Guests in no backup job of the cluster; all of them, unless a test says which."""
        return [
            {"vmid": guest.vmid, "type": "qemu" if isinstance(guest, FakeVm) else "lxc", "name": guest.name}
            for guest in [*self.vms, *self.cts]
            if (self.unprotected is None or guest.vmid in self.unprotected)
            and self.allowed(user, f"/vms/{guest.vmid}", "VM.Audit")
        ]


class Plane:
    """The API in a thread of its own. cafile: what a client trusts; url: where it listens, once started."""

    def __init__(self, api: RigPve, folder: Path) -> None:
        self.api = api
        self.cafile, self._key, _ = make_cert(str(folder), name="pve-root-ca")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fakepve", daemon=True)

    def __enter__(self) -> Plane:
        self._thread.start()
        self.call(self.api.start(self.cafile, self._key))
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self.api.stop())
        self.call(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def url(self) -> str:
        return str(self.api.url)

    def call(self, work: Any, timeout: float = 30.0) -> Any:
        """Run a coroutine there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def root_ticket(self) -> dict[str, str]:
        ticket, token = self.api.issue_ticket("root@pam")
        return {"ticket": ticket, "csrf": token}
