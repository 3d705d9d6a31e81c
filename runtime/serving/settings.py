"""What a served model is told by its configuration file: which directory, variant and limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import InputError

# Tensors of a served model: its inputs are named as in ``inputs.FIELDS``.
ANSWER = "answer"
# Of these the request has a list for each input, of the others one text.
LISTS = frozenset({"choices"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of a served model, each a string in its ``config.pbtxt``.

    Args:
        directory: Deployment directory or bundle; relative to the folder of the model.
        variant: Key of ``VARIANTS``, or ``auto``.
        engine: Key of ``ENGINES``, or ``auto``.
        threads: Threads inside one operator; 0 takes one per core.
        batch_size: Most rows that the network runs at once.
        max_text_bytes: Most bytes, in UTF-8, of one text of a request.
        max_choices: Most choices of one question.
        max_rows: Most rows of the network that one request may make; a long context makes many.
        lengths: Tokens that rows are padded to, ascending; empty pads to the longest row. Requests
            of one length run in one batch.

    Raises:
        InputError: A limit is below 1.
    """

    directory: Path
    variant: str = "auto"
    engine: str = "auto"
    threads: int = 0
    batch_size: int = 32
    max_text_bytes: int = 65_536
    max_choices: int = 32
    max_rows: int = 64
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_text_bytes", "max_choices", "max_rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; use at least 1")


def read_settings(arguments: Mapping[str, str]) -> Settings:
    """Read what Triton hands to ``initialize`` of a Python model.

    Args:
        arguments: ``model_config`` as JSON, and ``model_repository``, the folder of the model.

    Raises:
        InputError: There is no such parameter, or its value is of another kind.
    """
    folder = Path(arguments["model_repository"])
    config: dict[str, Any] = json.loads(arguments["model_config"])
    given = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    known = {field.name: field.type for field in fields(Settings)}
    values: dict[str, Any] = {}
    for key, text in given.items():
        if key not in known:
            raise InputError(f"{folder} has a parameter {key}; use: {', '.join(known)}")
        try:
            if known[key] == "int":
                values[key] = int(text)
            elif key == "lengths":
                values[key] = tuple(int(part) for part in text.split(",") if part)
            else:
                values[key] = text
        except ValueError as error:
            raise InputError(f"{folder} has {key} = {text!r}; wanted whole numbers") from error
    if "directory" not in values:
        raise InputError(f"{folder} has no parameter directory; wanted a deployment directory")
    return Settings(**values | {"directory": (folder / values["directory"]).resolve()})


def parameters(settings: Settings) -> dict[str, str]:
    """Return the parameters of a ``config.pbtxt``, without those that have their usual value."""
    texts = {"directory": str(settings.directory)}
    for field in fields(Settings):
        value = getattr(settings, field.name)
        if field.name != "directory" and value != field.default:
            joined = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            texts[field.name] = joined
    return texts
