"""How a deployment directory is served: the forms, one literal table, and the options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import InputError

# Form -> what it is, for people.
FORMS = {
    "direct": "texts to answers in one Python-backend model",
    "python": "an ensemble, its network in our runtime",
    "onnxruntime": "an ensemble, its network in ONNX Runtime",
    "tensorrt": "an ensemble, its network a TensorRT plan",
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class RepositoryConfig:
    """How a model is served.

    Args:
        form: Key of ``FORMS``.
        name: Of the model that takes texts; its parts are called after it.
        variant: Key of ``VARIANTS``.
        engine: Key of ``ENGINES`` for the forms that run in our runtime, or ``auto``.
        plan: Name of the engine plan, for ``tensorrt``; None for the only one of the variant.
        instances: Networks that run beside each other.
        threads: Threads inside one operator; 0 takes one per core.
        max_batch: Most texts of a request, and rows of a batch.
        preferred: Batch sizes that are formed where possible; empty leaves it to Triton.
        delay_us: How long a batch waits for its preferred size.
        queue: Most requests that wait; what comes then is refused at once.
        max_text_bytes: Most bytes of a text.
        lengths: Tokens that rows are padded to, ascending; empty takes powers of two. Not for
            ``direct``, which pads each batch as little as it can.

    Raises:
        InputError: Unknown form or variant, a name that no file can have, or a number below 1.
    """

    form: str = "direct"
    name: str = "albert"
    variant: str = "fp32"
    engine: str = "auto"
    plan: str | None = None
    instances: int = 1
    threads: int = 0
    max_batch: int = 32
    preferred: tuple[int, ...] = ()
    delay_us: int = 0
    queue: int = 256
    max_text_bytes: int = 65_536
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise InputError(f"unknown form {self.form!r}; use one of: {', '.join(FORMS)}")
        if self.variant not in VARIANTS:
            raise InputError(f"unknown variant {self.variant!r}; use: {', '.join(VARIANTS)}")
        if _NAME.fullmatch(self.name) is None:
            raise InputError(f"got the name {self.name!r}; wanted letters, digits and _ . -")
        if self.plan is not None and self.form != "tensorrt":
            raise InputError(
                f"got the plan {self.plan} for the form {self.form}; a plan goes with tensorrt"
            )
        for key in ("instances", "max_batch", "queue", "max_text_bytes"):
            if getattr(self, key) < 1:
                raise InputError(f"{key} is {getattr(self, key)}; use at least 1")
        for key in ("threads", "delay_us"):
            if getattr(self, key) < 0:
                raise InputError(f"{key} is {getattr(self, key)}; use at least 0")
        if list(self.lengths) != sorted({n for n in self.lengths if n > 0}):
            raise InputError(f"lengths is {self.lengths}; use rising numbers of tokens from 1 on")
        if any(not 1 <= size <= self.max_batch for size in self.preferred):
            raise InputError(f"preferred is {self.preferred}; use sizes of 1 to {self.max_batch}")


def measured_settings(
    manifest: Mapping[str, Any], variant: str, asked: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return how to serve a variant, as ``bench --serving`` found it for the very file; or {}.

    Preferred sizes above the ``max_batch`` that is ``asked`` for are left out.
    """
    found = manifest.get("serving", {}).get(variant, {})
    current = manifest["files"].get(VARIANTS[variant].file, {}).get("sha256")
    if not found or found["sha256"] != current:
        return {}
    kept = ("instances", "threads", "preferred", "lengths")
    values = {k: tuple(found[k]) if isinstance(found[k], list) else found[k] for k in kept}
    most = (asked or {}).get("max_batch", RepositoryConfig.max_batch)
    return values | {"preferred": tuple(n for n in values["preferred"] if n <= most)}
