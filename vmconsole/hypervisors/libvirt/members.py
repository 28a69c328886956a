"""What is stored beside the disks: the guest's description, its checkpoint, its firmware variables."""

from __future__ import annotations

from vmconsole.errors import VmconsoleError
from vmconsole.hypervisors.libvirt.facts import GuestFacts
from vmconsole.hypervisors.libvirt.virsh import Virsh

DOMAIN = "config/libvirt.xml"
CHECKPOINT = "config/checkpoint.xml"
NVRAM = "firmware/nvram.fd"
MAX_NVRAM = 64 * 1024 * 1024


def collect_members(virsh: Virsh, guest: GuestFacts, checkpoint: str) -> tuple[dict[str, bytes], list[str]]:
    """(members, warnings). checkpoint: its XML, empty when there is none. Raises HostUnreachable.

    The description holds secrets (such as a VNC password) when the login user may see them.
    """
    warnings = []
    members = {DOMAIN: _description(virsh, guest).encode()}
    if checkpoint:
        members[CHECKPOINT] = checkpoint.encode()
    if guest.nvram:
        done = virsh.machine.run(["cat", "--", guest.nvram], max_output=MAX_NVRAM, check=False)
        if done.status == 0:
            members[NVRAM] = done.stdout
        else:
            warnings.append(f"Its firmware variables ({guest.nvram}) cannot be read: {done.errors[:200]}")
    return members, warnings


def _description(virsh: Virsh, guest: GuestFacts) -> str:
    live = () if guest.transient else ("--inactive",)
    try:
        return virsh.run("dumpxml", guest.uuid, *live, "--security-info")
    except VmconsoleError:
        return guest.inactive_xml
