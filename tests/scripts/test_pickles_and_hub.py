"""No pickle is executed, and a hub that does not answer ends in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from albert_deploy.runtime.errors import InputError, MachineError

if TYPE_CHECKING:
    from tests.scripts.conftest import Cli

BAD_INPUT, MACHINE = InputError.exit_code, MachineError.exit_code


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.place),)


def as_pickle(folder: Path, value: object = None) -> Path:
    """Replace a checkpoint's safetensors by a pickle of the same tensors, or of ``value``."""
    import torch
    from safetensors.torch import load_file

    held = load_file(folder / "model.safetensors") if value is None else value
    torch.save(held, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder / "pytorch_model.bin"


def test_a_pickle_is_refused_unless_allowed(cli: Cli, source: Path, out: Path) -> None:
    as_pickle(source)
    hints = ("only as a pickle (pytorch_model.bin)", "convert it to safetensors", "--allow-pickle")
    cli.refuses(BAD_INPUT, "export", source, "--out", out, hints=hints, out=out)


def test_a_malicious_pickle_is_not_executed(
    cli: Cli, source: Path, out: Path, tmp_path: Path
) -> None:
    import torch

    place = tmp_path / "executed"
    file = as_pickle(source, {"classifier.weight": Payload(place)})
    torch.load(file, weights_only=False)
    assert place.is_dir(), "the payload does nothing, so this test shows nothing"
    place.rmdir()
    hints = ("cannot be read as plain tensors", "convert it to safetensors where it was trained")
    arguments = ("export", source, "--out", out, "--allow-pickle")
    result = cli.refuses(BAD_INPUT, *arguments, hints=hints, out=out)
    assert not place.exists()
    assert "weights_only" not in result.err  # PyTorch's own advice is to switch it off


@pytest.mark.parametrize("kept", [0, 10, 500, 20_000])
def test_a_truncated_pickle_is_refused(cli: Cli, source: Path, out: Path, kept: int) -> None:
    file = as_pickle(source)
    file.write_bytes(file.read_bytes()[:kept])
    hints = ("cannot be read as plain tensors: it is damaged", "convert it to safetensors")
    arguments = ("export", source, "--out", out, "--allow-pickle")
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=out)


@pytest.mark.parametrize("value", [[1], {"epoch": 3}, {"state_dict": {}}, {1: 2}])
def test_a_pickle_of_something_else_is_refused(
    cli: Cli, source: Path, out: Path, value: object
) -> None:
    as_pickle(source, value)
    hints = ("without tensors by name; save model.state_dict() itself",)
    arguments = ("export", source, "--out", out, "--allow-pickle")
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=out)


def test_a_hub_that_is_out_of_reach_is_not_bad_input(
    cli: Cli, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    class Timeout(Exception):  # noqa: N818 - the HTTP client's errors are no OSErrors
        pass

    def unreachable(*_: object, **__: object) -> None:
        raise Timeout("no route to host\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    hints = ("org/model is no folder here", "cannot be reached (no route to host)", "local folder")
    cli.refuses(MACHINE, "export", "org/model", "--out", out, hints=hints, out=out)


def test_a_model_that_the_hub_does_not_have_is_bad_input(
    cli: Cli, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    class NotFoundError(RepositoryNotFoundError):
        def __init__(self) -> None:
            Exception.__init__(self, "404")

    def missing(*_: object, **__: object) -> None:
        raise NotFoundError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", missing)
    hints = ("neither a folder here nor a readable model", "check the name and --revision")
    cli.refuses(BAD_INPUT, "export", "org/model", "--out", out, hints=hints, out=out)


def test_an_offline_run_says_so_and_shows_nothing_else(cli: Cli, out: Path, tmp_path: Path) -> None:
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    result = cli.child("export", "org/model", "--out", out, **environment)
    result.check_refusal(MACHINE, ("org/model is no folder here", "give a local folder"))
    assert len(result.err.splitlines()) == 1
    assert not out.exists()
