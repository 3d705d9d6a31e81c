"""The error trace: how far the hidden state is from fp32's after each iteration of the layer.

An iteration of ALBERT's encoder rounds with the weights that the one before it rounded with, so
errors compound. The trace reads the files that ship, with the hidden states as further outputs.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.table import choose_engine, open_file
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.manifest import check_file
from albert_deploy.runtime.session import Feeds, Session
from albert_deploy.validation.parity.difference import Difference

if TYPE_CHECKING:
    import onnx_ir as ir

Floats = npt.NDArray[np.float32]

_ITERATION = re.compile(r"^encoder/iteration_(\d+)/")
# What the first iteration reads, by the node that makes it: ALBERT's mapping, else BERT's norm.
_INPUTS = ("encoder/embedding_hidden_mapping_in/Add", "embeddings/LayerNorm/LayerNormalization")
_INPUT, _OUTPUT = "encoder input", "output "


def trace(
    directory: Path,
    manifest: dict[str, Any],
    variants: Sequence[str],
    rows: Sequence[Feeds],
) -> dict[str, list[dict[str, Any]]]:
    """Compare variants with the fp32 file after each iteration, one row in memory at a time.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        variants: Keys of ``VARIANTS``, each in its own engine.
        rows: Inputs of batch 1 without padding, int64 [1, sequence] or [1, choices, sequence].

    Returns:
        By variant a list of:

        - ``after``: ``encoder input``, ``encoder iteration 0``, …, ``output logits``;
        - ``tokens``: ``first`` where the files compute the first token alone, as they do in the
          last iteration for a head that reads no other, else ``all``;
        - ``sqnr_db``: 10 log10(sum of y^2 / sum of error^2) over those tokens of all rows, in
          dB; None where nothing differs, or not all is finite;
        - ``first_token_sqnr_db``: likewise over the first tokens; None for outputs;
        - ``finite``: whether the variant's values are.

    Raises:
        InputError: There are no rows.
        ContractError: A file is not the one that the manifest records, or lacks a hidden state.
        MachineError: No engine for a variant is installed.
    """
    from albert_deploy.export.graph.file import load

    if not rows:
        raise InputError("got no rows to trace errors on; give some or trace none")
    places = hidden_states(load(check_file(directory, manifest, VARIANTS["fp32"].file)))
    with contextlib.ExitStack() as stack:
        sessions = {
            name: stack.enter_context(_probed(directory, manifest, name, places))
            for name in ("fp32", *variants)
        }
        outputs = sessions["fp32"].outputs[: -len(places)]
        labels = (*(_OUTPUT + name for name in outputs), *places)
        found = {v: {label: _Pair() for label in labels} for v in variants}
        for feeds in tqdm(rows, desc="error trace", unit="row", disable=None, leave=False):
            source = _values(sessions["fp32"], feeds, labels)
            for variant in variants:
                for label, value in _values(sessions[variant], feeds, labels).items():
                    pair = _common(source[label], value, f"{variant}, {label}")
                    found[variant][label].add(*pair, feeds, hidden=label in places)
    order = (*places, *labels[: len(outputs)])
    return {v: [{"after": label} | found[v][label].to_json() for label in order] for v in variants}


class _Pair:
    """Running comparison of one hidden state, of all of its tokens and of the first ones."""

    def __init__(self) -> None:
        self.tokens = "all"
        self._all, self._first = Difference(None), Difference(None)
        self._hidden = False

    def add(self, ours: Floats, theirs: Floats, feeds: Feeds, *, hidden: bool) -> None:
        """Add one row: [1, sequence, hidden] for a hidden state, else any shape."""
        self._all.add(ours, theirs)
        self._hidden = hidden
        if hidden:
            self._first.add(ours[:, :1], theirs[:, :1])
            if ours.shape[1] < feeds["input_ids"].shape[-1]:
                self.tokens = "first"

    def to_json(self) -> dict[str, Any]:
        """Return the form that reports hold, less its name."""
        return {
            "tokens": self.tokens,
            "sqnr_db": self._all.rounded_db,
            "first_token_sqnr_db": self._first.rounded_db if self._hidden else None,
            "finite": self._all.finite,
        }


def hidden_states(model: ir.Model) -> dict[str, str]:
    """Map names for people to the values that hold the hidden state, in order of execution.

    They are what the first iteration reads, and the last normalization of each iteration; a
    converter keeps their names.

    Raises:
        ContractError: The graph has no encoder, or an iteration without a normalization.
    """
    nodes = {node.name: node for node in model.graph}
    first = next((nodes[name] for name in _INPUTS if name in nodes), None)
    ends: dict[int, ir.Node | None] = {}
    for node in model.graph:
        match = _ITERATION.match(node.name or "")
        if match is not None:
            number = int(match[1])
            ends[number] = node if node.op_type == "LayerNormalization" else ends.get(number)
    found = {_INPUT: first}
    found |= {f"encoder iteration {number}": end for number, end in sorted(ends.items())}
    names = {label: node.outputs[0].name for label, node in found.items() if node is not None}
    missing = [label for label in found if not names.get(label)]
    if missing or not ends:
        raise ContractError(
            f"the fp32 graph has no hidden state for {', '.join(missing) or 'any iteration'}; "
            "export the checkpoint again"
        )
    return {label: name for label, name in names.items() if name is not None}


@contextlib.contextmanager
def _probed(
    directory: Path, manifest: dict[str, Any], variant: str, places: Mapping[str, str]
) -> Iterator[Session]:
    """Open a copy of a variant's file whose last outputs are the values of ``places``."""
    from albert_deploy.export.graph.file import save

    engine = choose_engine(manifest, variant)
    file = check_file(directory, manifest, VARIANTS[variant].file)
    with tempfile.TemporaryDirectory(prefix="albert-deploy-") as folder:
        copy = Path(folder) / file.name
        save(_with_outputs(file, places), copy)
        with open_file(copy, variant, engine) as session:
            yield session


def _with_outputs(file: Path, places: Mapping[str, str]) -> ir.Model:
    import onnx_ir as ir

    from albert_deploy.export.graph.edit import named_node
    from albert_deploy.export.graph.file import load

    model = load(file)
    values = {v.name: v for node in model.graph for v in node.outputs}
    for label, name in places.items():
        if name not in values:
            raise ContractError(
                f"{file} has no value {name}, the hidden state of {label}; quantize again"
            )
        # A name and a type of its own, whatever type a converter gave the value.
        cast = named_node("Cast", [values[name]], f"trace/{name}", to=int(ir.DataType.FLOAT))
        cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.append(cast)
        model.graph.outputs.append(cast.outputs[0])
    return model


def _values(session: Session, feeds: Feeds, labels: Sequence[str]) -> dict[str, Floats]:
    # By position: an engine may call an output by the name of a value that it equals.
    return dict(zip(labels, session.run(feeds).values(), strict=True))


def _common(ours: Floats, theirs: Floats, where: str) -> tuple[Floats, Floats]:
    """Return what both files compute: the last iteration may do so for the first token alone."""
    if ours.ndim == theirs.ndim == 3 and 1 in (ours.shape[1], theirs.shape[1]):
        ours, theirs = ours[:, :1], theirs[:, :1]
    if ours.shape != theirs.shape:
        raise ContractError(
            f"{where}: got shape {theirs.shape}, fp32 has {ours.shape}; quantize again"
        )
    return ours, theirs
