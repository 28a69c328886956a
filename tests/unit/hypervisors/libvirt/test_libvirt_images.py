from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmconsole.errors import ProtocolError
from vmconsole.hypervisors.libvirt.diskfacts import parse_block
from vmconsole.hypervisors.libvirt.facts import ImageBitmap
from vmconsole.hypervisors.libvirt.images import parse_info

RECORDED = Path(__file__).parent / "recorded"


def test_recorded_images_in_use_and_off() -> None:
    running = parse_info((RECORDED / "qemu-img.json").read_text())
    assert (running.format, running.size, running.compat) == ("qcow2", 256 * 1024**2, "1.1")
    assert running.allocated == 1257472
    off = parse_info((RECORDED / "qemu-img-off.json").read_text())
    assert off.bitmaps == (ImageBitmap("vmconsole-deadbeef-2"), ImageBitmap("vmconsole-deadbeef-1"))


def test_layers_add_up_and_the_chain_is_in_order() -> None:
    layer = {"virtual-size": 100, "format": "qcow2", "actual-size": 7}
    found = parse_info(json.dumps([layer | {"filename": name} for name in ("/top", "/middle", "/base")]))
    assert found.chain == ("/middle", "/base")
    assert found.allocated == 21


def test_broken_bitmaps_and_snapshots_are_seen() -> None:
    data = {"compat": "1.1", "bitmaps": [{"name": "b", "flags": ["in-use", "auto"], "granularity": 65536}]}
    document = {
        "virtual-size": 1, "format": "qcow2", "filename": "x", "snapshots": [{}, {}],
        "format-specific": {"data": data},
    }  # fmt: skip
    found = parse_info(json.dumps(document))
    assert found.bitmaps[0].in_use
    assert found.internal_snapshots == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "[1]",
        '[{"format": "raw"}]',
        '[{"virtual-size": -1, "format": "raw"}]',
        '[{"virtual-size": 1e400, "format": "raw"}]',
        json.dumps([{"virtual-size": 1, "format": "raw", "filename": "x"}] * 300),
        json.dumps({"virtual-size": 1, "format": "qcow2", "format-specific": {"data": [1]}}),
        "[" * 100_000,
    ],
)
def test_nonsense_is_a_protocol_error(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_info(text)


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["virtual-size", "format", "filename", "format-specific", "data", "bitmaps", "flags"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(documents)
def test_any_json_parses_or_is_a_protocol_error(document: Any) -> None:
    with contextlib.suppress(ProtocolError):
        parse_info(json.dumps(document))


def test_block_information() -> None:
    assert parse_block("Capacity:       268435456\nAllocation:     1286144\nPhysical:       1769568\n") == (
        268435456,
        1286144,
    )
    assert parse_block("Capacity: -\nAllocation: -\n") == (0, 0)
    assert parse_block("error: nothing") == (0, 0)


@given(st.text(alphabet="CapacityAllocation: 0129-\n"))
def test_block_information_never_fails(text: str) -> None:
    assert all(value >= 0 for value in parse_block(text))
