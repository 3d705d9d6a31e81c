"""Serve a directory: everything checked and laid out for Triton, and then run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albert_deploy.runtime.bundle import check_bundle, is_bundle
from albert_deploy.runtime.engines.table import AUTO
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.runtime.recommend import recommend
from albert_deploy.scripts.serving.installation import find_installation, prepare_backends
from albert_deploy.scripts.serving.options import RepositoryConfig, measured_settings
from albert_deploy.scripts.serving.repository import MODELS, UP, write_repository
from albert_deploy.scripts.serving.supervise import Served, WatchConfig, run

_LOG = logging.getLogger(__name__)
_MOST_INSTANCES = 8


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """How a directory is served.

    Args:
        watch: Where it listens, limits on requests and times.
        variant: Key of ``VARIANTS``, or ``auto``, see ``recommend.recommend``.
        engine: Key of ``ENGINES``, or ``auto``.
        model: Fields of ``RepositoryConfig``; what they leave open is what ``bench --serving``
            measured, else one network of one thread for each core, eight at most.
    """

    watch: WatchConfig = field(default_factory=WatchConfig)
    variant: str = "auto"
    engine: str = "auto"
    model: dict[str, Any] = field(default_factory=dict)


def serve(directory: Path, config: ServeConfig, *, ready: Callable[[str], None]) -> None:
    """Serve until told to stop by SIGTERM or SIGINT; then what was accepted is answered first.

    Args:
        directory: Deployment directory or bundle. The models of a bundle made with ``--format
            triton`` are served as they are, if all of them run in Triton's Python backend.
        config: Options.
        ready: Called once, with a line that says where it listens.

    Raises:
        InputError: No such directory or variant, or models that only another Triton serves.
        ContractError: A file is not the one that the manifest records, now or when it is read
            again, or Triton cannot load the model.
        MachineError: Triton is not installed, a port is taken, or it breaks again and again.
    """
    with _prepared(directory, config) as served:
        _LOG.info(f"starting Triton with the {served.variant} of {served.directory}")
        asyncio.run(run(served, config.watch, ready=ready))


@contextlib.contextmanager
def _prepared(directory: Path, config: ServeConfig) -> Iterator[Served]:
    installation = find_installation()
    directory = directory.resolve()
    bundled = directory / MODELS
    name = config.model.get("name", RepositoryConfig.name)
    with tempfile.TemporaryDirectory(prefix="albert-deploy-serve-") as folder:
        work = Path(folder)
        if is_bundle(directory):
            check_bundle(directory)
        manifest = read_manifest(directory)
        if is_bundle(directory) and bundled.is_dir():
            models, variant = work / MODELS, next(iter(manifest["variants"]))
            name = _only_python(bundled, config)
            _copy_models(bundled, directory, models)
        else:
            choice = recommend(directory, manifest, variant=config.variant, engine=config.engine)
            models, variant = work / MODELS, choice.variant
            cores = min(len(os.sched_getaffinity(0)), _MOST_INSTANCES)
            given = {"instances": cores, "threads": 1} | measured_settings(
                manifest, variant, config.model
            )
            chosen = RepositoryConfig(
                **given | config.model | {"variant": variant, "engine": choice.engine}
            )
            write_repository(directory, manifest, chosen, out=models, location=str(directory))
        yield Served(
            directory=directory,
            variant=variant,
            name=name,
            models=models,
            backends=prepare_backends(installation, work),
            installation=installation,
            memory=f"albert-deploy-{secrets.token_hex(8)}-",
        )


def _only_python(models: Path, config: ServeConfig) -> str:
    """Return the name of a bundle's model, all parts of which this server can run."""
    words = {"variant": config.variant, "engine": config.engine}
    if given := sorted([*config.model, *(key for key, word in words.items() if word != AUTO)]):
        raise InputError(
            f"{models} says how it is served already; leave out --{given[0].replace('_', '-')}, or "
            "serve a bundle of --format plain"
        )
    names = sorted(path.name for path in models.iterdir())
    whole = [name for name in names if all(other.startswith(name) for other in names)]
    if len(whole) != 1:
        raise InputError(f"{models} holds {', '.join(names)}; wanted one model and its parts")
    texts = {name: (models / name / "config.pbtxt").read_text(encoding="utf-8") for name in names}
    ours = ('platform: "ensemble"', 'backend: "python"')
    others = [name for name, text in texts.items() if not any(word in text for word in ours)]
    if others:
        raise InputError(
            f"{models / others[0]} needs a backend that this Triton has not; serve the directory "
            "it was bundled from, or run the image of docker/Dockerfile.triton"
        )
    return whole[0]


def _copy_models(bundled: Path, directory: Path, out: Path) -> None:
    """Copy a bundle's models: Python would write its byte code beside them, into the bundle."""
    shutil.copytree(bundled, out)
    for path in out.glob("*/config.pbtxt"):
        here, there = (f"string_value: {json.dumps(place)}" for place in (UP, str(directory)))
        path.write_text(path.read_text(encoding="utf-8").replace(here, there), encoding="utf-8")
