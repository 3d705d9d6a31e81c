"""The one way to run a model: a ``Session``, whatever the engine behind it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.contract import variant_named
from albert_deploy.runtime.manifest import check_file, read_manifest

Array = npt.NDArray[np.generic]
Feeds = Mapping[str, npt.NDArray[np.int64]]


class Session(Protocol):
    """A loaded model.

    Attributes:
        outputs: Names of its outputs, in the order of the contract.
    """

    outputs: tuple[str, ...]

    def run(self, feeds: Feeds) -> dict[str, npt.NDArray[np.float32]]:
        """Run once.

        Args:
            feeds: ``input_ids``, ``attention_mask``, ``token_type_ids``, int64, all
                [batch, sequence] or [batch, choices, sequence].

        Returns:
            Every output by name, float32.

        Raises:
            InputError: A feed is missing, unknown or of the wrong shape.
        """
        ...

    def close(self) -> None:
        """Free the model; the session cannot run any more."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def open_session(directory: Path, *, variant: str = "fp32", threads: int = 0) -> Session:
    """Open a variant of a deployment directory after comparing its SHA-256.

    Args:
        directory: Deployment directory.
        variant: Key of ``VARIANTS``.
        threads: Threads inside one operator; 0 takes one per core.

    Raises:
        InputError: No such directory or variant.
        ContractError: The file is not the one that the manifest records.
        MachineError: No engine is installed.
    """
    from albert_deploy.runtime.ort import open_ort

    path = check_file(directory, read_manifest(directory), variant_named(variant).file)
    return open_ort(path, threads=threads)
