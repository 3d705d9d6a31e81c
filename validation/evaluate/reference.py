"""The reference that every artifact is compared with: the fp32 PyTorch checkpoint itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.session import Feeds, Session


class TorchSession(Session):
    """A checkpoint in PyTorch, behind the ``Session`` protocol.

    Attributes:
        device_ms: Time that a GPU computed in the last run, copies apart; 0 on a processor.
    """

    engine = "torch"

    def __init__(self, model: Any, outputs: tuple[str, ...]) -> None:
        self.model = model
        self.outputs = outputs
        self.device_ms = 0.0
        self._device = "cpu"

    def move(self, device: str, dtype: Any) -> None:
        """Run on another device of PyTorch, with weights of another type."""
        self.model.to(device, dtype)
        self._device = device

    def run(self, feeds: Feeds) -> dict[str, npt.NDArray[np.float32]]:
        """See ``Session.run``."""
        import torch

        if self.model is None:
            raise InputError("the session is closed; open it again")
        tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in feeds.items()}
        if self._device == "cpu":
            with torch.inference_mode():
                result = self.model(**tensors)
            return {name: result[name].float().numpy() for name in self.outputs}
        cuda: Any = torch.cuda
        begin, end = (cuda.Event(enable_timing=True) for _ in range(2))
        with torch.inference_mode():
            tensors = {name: value.to(self._device) for name, value in tensors.items()}
            begin.record()
            result = self.model(**tensors)
            end.record()
        # Waits for all that went before.
        outputs = {name: result[name].float().cpu().numpy() for name in self.outputs}
        self.device_ms = begin.elapsed_time(end)
        return outputs

    def close(self) -> None:
        """See ``Session.close``."""
        self.model = None


def open_reference(
    manifest: dict[str, Any], source: str | None = None, *, attention: str = "eager"
) -> TorchSession:
    """Load the checkpoint that a deployment directory was made from.

    transformers' own attention is used, not the one that is traced, so that a mistake in
    tracing shows.

    Args:
        manifest: The directory's manifest.
        source: Where the checkpoint is now; None for where it was exported from.
        attention: Which of transformers' own implementations is used.

    Raises:
        InputError: It is not there, or it is not the same checkpoint.
    """
    from albert_deploy.export.checkpoint import load_model
    from albert_deploy.export.source import find_checkpoint

    recorded = manifest["source"]
    given = source or recorded["path"]
    try:
        found = find_checkpoint(
            given,
            revision=None if source else recorded["revision"],
            # The very bytes that were accepted at export; their SHA-256 is compared below.
            allow_pickle=recorded["weights"][0].endswith(".bin"),
        )
    except InputError as error:
        raise InputError(f"the fp32 source is needed to validate: {error}; see `source`") from error
    if found.sha256 != recorded["sha256"]:
        raise InputError(
            f"{given} has weights {found.sha256[:12]}…, the directory was made from "
            f"{recorded['sha256'][:12]}…; pass `source` with the right one or export again"
        )
    loaded = load_model(found, manifest["task"], attention=attention)
    return TorchSession(loaded.model, tuple(o["name"] for o in manifest["contract"]["outputs"]))
