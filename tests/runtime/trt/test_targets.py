"""Targets: true compute capabilities, found by any name, and an unknown one lists them all."""

from __future__ import annotations

import pytest

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.trt.flavours import FLAVOURS
from albert_deploy.runtime.trt.targets import (
    TARGETS,
    TENSORRT,
    TENSORRT_RTX,
    can_run,
    target_named,
    target_of,
    variants_for_engines,
)

# Not taken from the table: NVIDIA's list of compute capabilities.
CAPABILITIES = {
    "t4": (7, 5),
    "a100": (8, 0),
    "a30": (8, 0),
    "a10": (8, 6),
    "rtx30": (8, 6),
    "orin": (8, 7),
    "l4": (8, 9),
    "l40s": (8, 9),
    "rtx40": (8, 9),
    "h100": (9, 0),
    "h200": (9, 0),
    "b200": (10, 0),
    "b300": (10, 3),
    "thor": (11, 0),
    "rtx50": (12, 0),
    "rtx-pro-6000": (12, 0),
    "dgx-spark": (12, 1),
}


@pytest.mark.parametrize("name", CAPABILITIES)
def test_a_gpu_and_its_capability_are_the_same_target(name: str) -> None:
    target = target_named(name)
    assert target.capability == CAPABILITIES[name]
    bare = target_named(target.sm)
    assert bare == target_of(target.capability)
    assert bare.precisions == target.precisions
    assert bare.flavours == target.flavours
    assert bare.memory_gib is None


@pytest.mark.parametrize("text", ["SM89", " sm89 ", "L4", "RTX-PRO-6000"])
def test_names_are_found_in_any_case(text: str) -> None:
    assert target_named(text).name == text.strip().lower()


def test_each_row_has_the_name_it_is_found_by() -> None:
    for name, row in TARGETS.items():
        assert row.name == name
        assert row.flavours
        assert set(row.flavours) <= set(FLAVOURS)


def test_an_unknown_target_lists_all() -> None:
    with pytest.raises(InputError) as error:
        target_named("gtx1080")
    message = str(error.value)
    assert "local" in message
    assert max(map(len, message.splitlines())) < 160
    words = set(message.replace(",", " ").split())
    assert set(TARGETS) <= words


def test_an_unknown_capability_is_refused() -> None:
    with pytest.raises(InputError, match=r"7\.0 is not supported.*8\.9"):
        target_of((7, 0))


@pytest.mark.parametrize("name", ["h100", "h200", "b200", "b300", "orin", "thor", "sm87", "sm90"])
def test_data_centre_and_jetson_are_served_by_tensorrt_alone(name: str) -> None:
    assert target_named(name).flavours == (TENSORRT,)


def test_rtx_serves_what_its_bindings_list() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    listed = {name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")}
    bare = {n for n, row in TARGETS.items() if n.startswith("sm") and TENSORRT_RTX in row.flavours}
    assert bare == listed


@pytest.mark.parametrize(
    ("name", "variant", "reason"),
    [
        ("t4", "fp16", None),
        ("t4", "int8-fp16", None),
        ("t4", "bf16", "no bf16"),
        ("a100", "bf16", None),
        ("a100", "fp8-qdq", "no fp8"),
        ("orin", "fp8-qdq", "no fp8"),
        ("l4", "fp8-qdq", None),
        ("h100", "fp8-qdq", None),
        ("h100", "int8", "does not read its operators"),
    ],
)
def test_a_chip_runs_what_it_has_the_precision_for(
    name: str, variant: str, reason: str | None
) -> None:
    found = can_run(target_named(name), variant)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert reason in found


def test_every_variant_is_known() -> None:
    for variant in VARIANTS:
        assert (can_run(target_named("b200"), variant) is None) == (
            variant in variants_for_engines()
        )
    with pytest.raises(InputError, match="unknown variant"):
        can_run(target_named("l4"), "int3")
