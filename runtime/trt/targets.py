"""GPUs that engines are built for: compute capability, memory, precisions, and who serves them.

Compute capabilities are those of NVIDIA's list (developer.nvidia.com/cuda-gpus), precisions those
of TensorRT's support matrix. TensorRT for RTX serves what its ``ComputeCapability`` lists.
"""

from __future__ import annotations

from dataclasses import dataclass

from albert_deploy.runtime.contract import variant_named
from albert_deploy.runtime.errors import InputError

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt_rtx"
# Any GPU of the machine at hand; what runs here resolves it to one of ``TARGETS``.
LOCAL = "local"

_TURING = ("fp32", "fp16", "int8")
_AMPERE = ("fp32", "tf32", "fp16", "bf16", "int8")
_ADA = (*_AMPERE, "fp8")
_BOTH = (TENSORRT, TENSORRT_RTX)
_FULL = (TENSORRT,)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A GPU, or all those of one compute capability.

    Args:
        name: Key of ``TARGETS``.
        label: What its vendor calls it.
        capability: Compute capability, major and minor.
        memory_gib: Nominal memory; None where the name covers several sizes. That of Jetson
            and DGX Spark is shared with the processor.
        precisions: Types that it multiplies matrices in: ``fp32``, ``tf32``, ``fp16``, ``bf16``,
            ``int8``, ``fp8``.
        flavours: Who builds for it: keys of ``runtime.trt.flavours.FLAVOURS``.
    """

    name: str
    label: str
    capability: tuple[int, int]
    memory_gib: float | None = None
    precisions: tuple[str, ...]
    flavours: tuple[str, ...]

    @property
    def sm(self) -> str:
        """Return the name of the compute capability, such as ``sm89``."""
        return "sm{}{}".format(*self.capability)


# Name -> what its vendor calls all of them, what they multiply in, who builds for them.
_CAPABILITIES: dict[tuple[int, int], tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    (7, 5): ("Turing", _TURING, _BOTH),
    (8, 0): ("Ampere, data centre", _AMPERE, _BOTH),
    (8, 6): ("Ampere", _AMPERE, _BOTH),
    (8, 7): ("Ampere, Jetson Orin", _AMPERE, _FULL),
    (8, 9): ("Ada", _ADA, _BOTH),
    (9, 0): ("Hopper", _ADA, _FULL),
    (10, 0): ("Blackwell, data centre", _ADA, _FULL),
    (10, 3): ("Blackwell Ultra", _ADA, _FULL),
    (11, 0): ("Blackwell, Jetson Thor", _ADA, _FULL),
    (12, 0): ("Blackwell", _ADA, _BOTH),
    (12, 1): ("Blackwell, GB10", _ADA, _BOTH),
}

# Name, label, compute capability, nominal memory in GiB.
_GPUS: tuple[tuple[str, str, tuple[int, int], float | None], ...] = (
    ("t4", "NVIDIA T4", (7, 5), 16),
    ("a100", "NVIDIA A100 40GB", (8, 0), 40),
    ("a100-80gb", "NVIDIA A100 80GB", (8, 0), 80),
    ("a30", "NVIDIA A30", (8, 0), 24),
    ("a10", "NVIDIA A10", (8, 6), 24),
    ("a10g", "NVIDIA A10G", (8, 6), 24),
    ("a40", "NVIDIA A40", (8, 6), 48),
    ("l4", "NVIDIA L4", (8, 9), 24),
    ("l40", "NVIDIA L40", (8, 9), 48),
    ("l40s", "NVIDIA L40S", (8, 9), 48),
    ("h100", "NVIDIA H100", (9, 0), 80),
    ("h200", "NVIDIA H200", (9, 0), 141),
    ("b200", "NVIDIA B200", (10, 0), 180),
    ("b300", "NVIDIA B300", (10, 3), 288),
    ("rtx30", "GeForce RTX 30 series", (8, 6), None),
    ("rtx40", "GeForce RTX 40 series", (8, 9), None),
    ("rtx50", "GeForce RTX 50 series", (12, 0), None),
    ("rtx-a6000", "NVIDIA RTX A6000", (8, 6), 48),
    ("rtx-6000-ada", "NVIDIA RTX 6000 Ada Generation", (8, 9), 48),
    ("rtx-pro-4000", "NVIDIA RTX PRO 4000 Blackwell", (12, 0), 24),
    ("rtx-pro-5000", "NVIDIA RTX PRO 5000 Blackwell", (12, 0), None),
    ("rtx-pro-6000", "NVIDIA RTX PRO 6000 Blackwell", (12, 0), 96),
    ("dgx-spark", "NVIDIA DGX Spark (GB10)", (12, 1), 128),
    ("orin", "Jetson Orin", (8, 7), None),
    ("thor", "Jetson AGX Thor (T5000)", (11, 0), 128),
)


def _row(name: str, label: str, capability: tuple[int, int], memory: float | None) -> Target:
    _, precisions, flavours = _CAPABILITIES[capability]
    return Target(
        name=name,
        label=label,
        capability=capability,
        memory_gib=memory,
        precisions=precisions,
        flavours=flavours,
    )


TARGETS: dict[str, Target] = {
    row.name: row
    for row in (
        *(_row("sm{}{}".format(*c), f"{c[0]}.{c[1]} {r[0]}", c, None)
          for c, r in _CAPABILITIES.items()),
        *(_row(*gpu) for gpu in _GPUS),
    )
}  # fmt: skip

# What a variant's linear layers multiply in, and what is left of the rest.
_NEEDS: dict[str, tuple[str, ...]] = {
    "fp32": ("fp32",),
    "fp16": ("fp16",),
    "bf16": ("bf16",),
    "int8-qdq": ("int8",),
    "int8-fp16": ("int8", "fp16"),
    "fp8-qdq": ("fp8",),
}


def target_named(name: str) -> Target:
    """Look a target up; upper and lower case are the same.

    Raises:
        InputError: Unknown target; the message lists the known ones.
    """
    try:
        return TARGETS[name.strip().lower()]
    except KeyError:
        raise InputError(
            f"unknown target {name!r}; use {LOCAL}, or one of:\n{target_table()}"
        ) from None


def target_of(capability: tuple[int, int]) -> Target:
    """Return the bare row of a compute capability, such as ``sm89``.

    Raises:
        InputError: No row has it; the message lists those that are there.
    """
    name = "sm{}{}".format(*capability)
    if name not in TARGETS:
        known = ", ".join("{}.{}".format(*c) for c in _CAPABILITIES)
        raise InputError(
            f"compute capability {capability[0]}.{capability[1]} is not supported; "
            f"those that are: {known}"
        )
    return TARGETS[name]


def target_table() -> str:
    """Return the targets as lines: capability, label, who serves it, and the names for it."""
    lines = []
    for capability, (label, _, flavours) in _CAPABILITIES.items():
        names = [row.name for row in TARGETS.values() if row.capability == capability]
        lines.append(
            "  {:<5} {:<23} {:<25} {}".format(
                "{}.{}".format(*capability), label, ", ".join(flavours), ", ".join(names)
            )
        )
    return "\n".join(lines)


def can_run(target: Target, variant: str) -> str | None:
    """Return None where the chip has the precisions of a variant, else the reason why not.

    Args:
        target: A row of ``TARGETS``.
        variant: Key of ``runtime.contract.VARIANTS``.

    Raises:
        InputError: Unknown variant.
    """
    variant_named(variant)
    if variant not in _NEEDS:
        return (
            f"{variant} is for processors: TensorRT does not read its operators; "
            f"use one of: {', '.join(_NEEDS)}"
        )
    missing = [p for p in _NEEDS[variant] if p not in target.precisions]
    if missing:
        return (
            f"{target.label} ({target.sm}) has no {' and no '.join(missing)}; "
            f"it has {', '.join(target.precisions)}"
        )
    return None


def variants_for_engines() -> tuple[str, ...]:
    """Return the variants that TensorRT reads."""
    return tuple(_NEEDS)
