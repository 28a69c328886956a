"""Overlays: what the journal holds, and putting a definition right."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.libvirt import overlay
from vmconsole.hypervisors.libvirt.overlay import Overlay
from vmconsole.hypervisors.libvirt.push import job_info

DEFINITION = """<domain type='kvm'><name>g</name><devices>
<disk type='volume' device='disk'><driver name='qemu' type='raw' cache='none'/><source pool='p' volume="a'b"/>
<target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><target dev='sda'/></disk></devices></domain>"""


def test_the_source_of_a_disk_is_kept_as_it_was() -> None:
    source = ElementTree.fromstring(overlay.source_element(DEFINITION, "vda"))
    assert source.attrib == {"pool": "p", "volume": "a'b"}
    for disk in ("sda", "vdz"):
        with pytest.raises(ProtocolError):
            overlay.source_element(DEFINITION, disk)


def test_a_definition_is_put_back_as_it_was_before_the_overlay() -> None:
    below = Overlay(
        "vda", "/s/ours.overlay", "/pool/ab", "raw", "volume", overlay.source_element(DEFINITION, "vda")
    )
    over = ElementTree.fromstring(
        "<domain><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/>"
        "<source file='/s/ours.overlay'/><backingStore type='file'><source file='/pool/ab'/></backingStore>"
        "<target dev='vda'/></disk></devices></domain>"
    )
    disk = overlay._disk_on(over, below)
    assert disk is not None
    overlay._put_back(disk, below)
    assert disk.get("type") == "volume"
    assert disk.find("driver").attrib == {"name": "qemu", "type": "raw", "cache": "none"}  # type: ignore[union-attr]
    assert [source.attrib for source in disk.findall("source")] == [{"pool": "p", "volume": "a'b"}]
    assert disk.find("backingStore") is None
    assert overlay._disk_on(over, below) is None


@given(st.lists(st.builds(Overlay, *[st.text()] * 6)))
def test_the_journal_gives_back_what_was_written_down(overlays: list[Overlay]) -> None:
    assert overlay.read_payload(overlay.payload(overlays)) == tuple(overlays)


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"disk": "vda"}]', '[{"no": "field"}]', "3"])
def test_a_damaged_entry_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        overlay.read_payload({overlay.FIELD: text})


def test_job_info_is_read_as_virsh_prints_it() -> None:
    text = "Job type:         Unbounded   \nOperation:        Backup      \nFile processed:   1.500 MiB\n"
    assert job_info(text) == {"Job type": "Unbounded", "Operation": "Backup", "File processed": "1.500 MiB"}
