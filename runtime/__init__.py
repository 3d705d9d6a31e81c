"""Run a deployment directory: numpy, tokenizers and one engine, never torch.

``load`` is for people. Importing it imports nothing else: numpy comes with the first call.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from albert_deploy.runtime.pipeline import Model

__all__ = ["load"]


def load(
    directory: str | Path,
    variant: str = "auto",
    engine: str = "auto",
    threads: int = 0,
    *,
    trust: bool = False,
) -> Model:
    """Open a deployment directory to answer texts; see ``runtime.pipeline.load``."""
    from albert_deploy.runtime import pipeline

    return pipeline.load(directory, variant, engine, threads, trust=trust)
