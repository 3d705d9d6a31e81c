"""What a bench times: rows of fixed lengths, and real texts as long as a data set's are."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from albert_deploy.runtime.contract import CHOICES, INPUT_NAMES
from albert_deploy.runtime.engines.ort import open_ort
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.session import Feeds
from albert_deploy.runtime.tasks.tokenize import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the tables.

    Args:
        name: Key in the report: a number of tokens, or the name of a data set.
        rows: Feeds of batch 1; the time of a column is the mean over them.
    """

    name: str
    rows: tuple[Feeds, ...]

    @property
    def label(self) -> str:
        """Name for people."""
        return f"{self.name} tokens" if self.name.isdigit() else self.name

    def to_json(self) -> dict[str, Any]:
        """Return the form that the report holds."""
        return {"label": self.label, "tokens": [tokens(row) for row in self.rows]}


def tokens(feeds: Feeds) -> int:
    """Return the number of tokens of a row."""
    return int(feeds["input_ids"].shape[-1])


def fitting_lengths(
    lengths: Sequence[int], max_length: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split lengths into those that a model of ``max_length`` tokens takes and the others.

    Raises:
        InputError: None fits.
    """
    wanted = sorted(set(lengths))
    fitting = tuple(n for n in wanted if n <= max_length)
    if not fitting:
        raise InputError(
            f"got lengths {', '.join(map(str, wanted))}; the model takes at most {max_length} "
            "tokens: pass shorter `lengths`"
        )
    return fitting, tuple(n for n in wanted if n > max_length)


def random_row(manifest: Mapping[str, Any], length: int, *, seed: int) -> Feeds:
    """Return one row without padding: random ids, a full mask, one segment.

    All int64 [1, length]; [1, 2, length] for a task with choices.
    """
    axes = manifest["contract"]["inputs"][0]["axes"]
    shape = (1, 2, length) if CHOICES in axes else (1, length)
    vocabulary = int(manifest["source"]["config"]["vocab_size"])
    ids = np.random.default_rng(seed).integers(0, vocabulary, shape, dtype=np.int64)
    return dict(zip(INPUT_NAMES, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))


def dataset_column(
    directory: Path, manifest: Mapping[str, Any], dataset: tuple[str, Path | None], count: int
) -> Column:
    """Take ``count`` texts of a data set, evenly over its lengths.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        dataset: Name and path, None for the data of the shipped sample.
        count: Texts; a data set with fewer gives all of them.

    Raises:
        InputError: The data cannot be read, is for another task, or the directory has no
            tokenizer.
    """
    feeds = sorted(texts(directory, manifest, dataset), key=tokens)
    return Column(name=dataset[0], rows=tuple(spread(feeds, count)))


def spread(items: Sequence[Feeds], count: int) -> list[Feeds]:
    """Return ``count`` of the items at even distances, or all where there are fewer."""
    count = min(count, len(items))
    # The middle of each of ``count`` equal parts: neither the shortest nor the longest decides.
    return [items[int((i + 0.5) * len(items) / count)] for i in range(count)]


def texts(
    directory: Path,
    manifest: Mapping[str, Any],
    dataset: tuple[str, Path | None] | None,
    *,
    split: str = "dev",
) -> list[Feeds]:
    """Tokenize real texts as the task does it, cut to what the model takes.

    Args:
        directory: Deployment directory, for its tokenizer.
        manifest: Its manifest.
        dataset: Name and path, None for the data of the shipped sample of the task.
        split: ``dev`` or ``train``.

    Raises:
        InputError: The data cannot be read, is for another task, or there is no tokenizer.
    """
    from albert_deploy.export.samples import SAMPLES
    from albert_deploy.validation.data.datasets import read_dataset
    from albert_deploy.validation.data.rows import RowsConfig, encode_rows
    from albert_deploy.validation.data.table import check_fits

    task = manifest["task"]
    sample = SAMPLES["sample-squad" if task == "question-answering" else "sample-sst2"]
    name, path = (sample.dataset, sample.data) if dataset is None else dataset
    if dataset is not None:
        check_fits(name, task)
    if path is None:
        path = next((s.data for s in SAMPLES.values() if s.dataset == name), Path(name))
    rows = read_dataset(name, path, split=split)
    tokenizer = load_tokenizer(directory)
    texts = encode_rows(rows, manifest["contract"], tokenizer, RowsConfig(truncate=True))
    return [feeds for row in texts for feeds in row.feeds]


_PRODUCTS = ("MatMul", "Gemm")


def operations(path: Path, rows: Sequence[Feeds]) -> list[int]:
    """Count the operations of every matrix product of a float32 graph, attention's too.

    A product of [.., m, k] with [.., k, n] has ``2 * batch * m * n * k`` operations: a
    multiplication and an addition for each term of each element. Nothing else is counted;
    LayerNorm, softmax and GELU together are below 1% of it. Shapes are those that ONNX Runtime
    sees when it runs the rows.

    Args:
        path: ONNX file.
        rows: Feeds.

    Returns:
        Operations of each row.

    Raises:
        MachineError: ONNX Runtime or the onnx package is not installed.
    """
    try:
        import onnx
        from onnx import helper
    except ImportError as error:
        raise MachineError(
            f"the onnx package is not installed ({error}); run: pip install 'albert-deploy[export]'"
        ) from error
    model = onnx.load(path)
    products = [n for n in model.graph.node if n.op_type in _PRODUCTS]
    del model.graph.output[:]
    for index, node in enumerate(products):
        for role, value in (("left", node.input[0]), ("result", node.output[0])):
            name = f"{role}_{index}"
            model.graph.node.append(helper.make_node("Shape", [value], [name]))
            kind = helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [None])
            model.graph.output.append(kind)
    counts = []
    with tempfile.TemporaryDirectory(prefix="albert-deploy-") as folder:
        probe = Path(folder) / "shapes.onnx"
        onnx.save(model, probe, save_as_external_data=True, location="weights")
        del model
        with open_ort(probe) as session:
            for feeds in rows:
                found: Any = session.run(feeds)
                counts.append(
                    sum(
                        2 * int(np.prod(found[f"result_{i}"])) * int(found[f"left_{i}"][-1])
                        for i in range(len(products))
                    )
                )
    return counts
