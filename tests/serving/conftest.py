"""A real Triton in an environment of its own, and what it serves; `make serve-test` makes both."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from albert_deploy.runtime import load
from albert_deploy.scripts.tools.running import Running, running

REPOSITORY = Path(__file__).resolve().parents[2]
TEXTS = 64


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if REPOSITORY / "tests" / "serving" in item.path.parents:
            item.add_marker(pytest.mark.serve)
            item.add_marker(pytest.mark.medium)


@pytest.fixture(scope="session")
def program() -> Path:
    """`albert-deploy` of the environment that has Triton."""
    usual = REPOSITORY / ".venv-serve" / "bin" / "albert-deploy"
    path = Path(os.environ.get("ALBERT_DEPLOY_SERVER", usual))
    if not path.is_file():
        pytest.skip(f"needs a server in {path}, which is not there; run: make serve-test")
    return path


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped classifier as a deployment directory."""
    from albert_deploy.export.step import ExportConfig, export

    out = tmp_path_factory.mktemp("sample") / "out"
    export("sample-sst2", ExportConfig(), out=out)
    return out


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``bundle_of(directory, **serving)``: a bundle that Triton serves."""
    from albert_deploy.scripts.bundle.step import BundleConfig, bundle

    def make(directory: Path, **serving: Any) -> Path:
        out = tmp_path_factory.mktemp("bundles") / "bundle"
        config = BundleConfig(form="triton", variants=("fp32",), allow_failed=True, serving=serving)
        bundle(directory, config, out=out)
        return out

    return make


@pytest.fixture(scope="session")
def bundled(sample: Path, bundle_of: Callable[..., Path]) -> Path:
    return bundle_of(sample, instances=2, threads=1)


@pytest.fixture(scope="session")
def start(
    program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., AbstractContextManager[Running]]:
    """``start(directory, *options)``: a context with a server that listens."""
    logs, numbers = tmp_path_factory.mktemp("logs"), count()

    def begin(directory: Path, *options: str) -> AbstractContextManager[Running]:
        return running(program, directory, logs / f"{next(numbers)}.log", options)

    return begin


@pytest.fixture(scope="session")
def server(start: Callable[..., Any], bundled: Path) -> Iterator[Running]:
    """A server of the bundled sample that tests do not break."""
    with start(bundled, "--max-body-bytes", "100000") as served:
        yield served


@pytest.fixture(scope="session")
def texts() -> list[str]:
    from albert_deploy.validation.data.datasets import shipped_texts

    return [example.text for example in shipped_texts("text-classification", TEXTS)]


@pytest.fixture(scope="session")
def wanted(bundled: Path, texts: list[str]) -> dict[str, Any]:
    """What the same model answers in this process."""
    with load(bundled) as model:
        return dict(zip(texts, model.stream(texts), strict=True))


class Client:
    """Asks a server in the one or the other protocol, with Triton's own client."""

    def __init__(self, served: Running, protocol: str, timeout_s: float = 60.0) -> None:
        self.name = served.name
        if protocol == "http":
            import tritonclient.http as kinds

            self.client: Any = kinds.InferenceServerClient(
                served.http, concurrency=1, network_timeout=timeout_s
            )
            self._infer = self.client.infer
        else:
            import tritonclient.grpc as kinds

            self.client = kinds.InferenceServerClient(served.grpc)
            self._infer = partial(self.client.infer, client_timeout=timeout_s)
        self.kinds = kinds

    def tensor(self, name: str, rows: Any) -> Any:
        array = np.array(
            [[v if isinstance(v, bytes) else v.encode() for v in row] for row in rows], np.object_
        )
        made = self.kinds.InferInput(name, list(array.shape), "BYTES")
        made.set_data_from_numpy(array)
        return made

    def send(self, tensors: list[Any], **options: Any) -> list[Any]:
        given = {"parameters": options} if options else {}
        found = self._infer(self.name, tensors, **given).as_numpy("answer")
        return [json.loads(one) for one in found[:, 0]]

    def ask(self, *texts: str | bytes, **options: Any) -> list[Any]:
        return self.send([self.tensor("text", [[text] for text in texts])], **options)

    def close(self) -> None:
        self.client.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """``connect(served, protocol)``: a client, closed at the end."""
    made: list[Client] = []

    def open_client(served: Running, protocol: str, **options: Any) -> Client:
        made.append(Client(served, protocol, **options))
        return made[-1]

    yield open_client
    for client in made:
        client.close()


@pytest.fixture(params=["http", "grpc"])
def client(
    request: pytest.FixtureRequest, server: Running, connect: Callable[..., Client]
) -> Client:
    return connect(server, request.param)


@pytest.fixture(scope="session")
def same() -> Callable[[Any, Any], bool]:
    """Whether two answers are the same but for rounding."""

    def equal(one: Any, other: Any) -> bool:
        if isinstance(one, float) and isinstance(other, float):
            return abs(one - other) < 1e-4
        if isinstance(one, dict) and isinstance(other, dict):
            return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
        if isinstance(one, list) and isinstance(other, list):
            return len(one) == len(other) and all(map(equal, one, other))
        return bool(one == other)

    return equal
