"""Every parameter of a written file, at every use, against the fp32 file that it was made from.

A scale that is off by 2% hides in the rounding noise of the outputs, not in the weights: a column
of n rounded values has a gain, the slope of stored on real values, that rounding moves by about
0.3 / (127 sqrt(n)) and the fault by 0.02. Equalization multiplies rows and columns of a matrix by
powers of two, which the comparison finds and takes out; 2% is no power of two. Four standard
errors of the slope are taken off, so that short columns and coarse types raise no alarm.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.errors import ContractError, lookup

if TYPE_CHECKING:
    import onnx_ir as ir

# Only their matrices may be multiplied by powers of two, see ``equalize``.
_EQUALIZED = {"int8-qdq", "int8-fp16", "fp8-qdq"}
# Softmax does not see it, see ``key_bias``.
_DROPPED = re.compile(r"/key/Add$")


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How far stored parameters may be from the real ones.

    Args:
        gain: Of a row or column of a matrix, and of any other parameter as a whole.
        noise: Root mean square of the rest, as a share of the matrix's.
        offset: Likewise of a bias or a norm; None where biases are corrected on purpose, by as
            much as the mean error of a product, whatever their own size.
    """

    gain: float
    noise: float
    offset: float | None


# Of the smallest float16 numbers.
_HALF_STEP = 2.0**-25

# A type with m bits behind the point rounds by up to 2^-(m + 1), and by 0.3 times its step in
# the root mean square; int8 and fp8 have steps of a row or column, and rounding that makes up for
# its own errors moves values by more than half a step, and biases too. How much of that is too
# much is for parity to say: a column with one large weight may lose much of the others.
PRECISIONS: dict[str, Precision] = {
    "fp32": Precision(gain=1e-6, noise=1e-6, offset=1e-6),
    "fp16": Precision(gain=5e-4, noise=5e-4, offset=5e-4),
    "bf16": Precision(gain=4e-3, noise=4e-3, offset=4e-3),
    "int8": Precision(gain=0.01, noise=0.5, offset=1e-6),
    "int8-qdq": Precision(gain=0.01, noise=0.5, offset=None),
    "int8-fp16": Precision(gain=0.01, noise=0.5, offset=None),
    "fp8-qdq": Precision(gain=0.0125, noise=0.5, offset=None),
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One parameter.

    Attributes:
        name: Its name in the fp32 file.
        matrix: Whether it is a matrix.
        gain: Largest distance from 1 of the slope of its columns, of a table's rows, and of the
            whole, beyond four standard errors.
        noise: Root mean square of the differences, as a share of the parameter's.
        odd: Names of the uses that the variant lacks, or where it reads another value than at
            the first use.
    """

    name: str
    matrix: bool
    gain: float
    noise: float
    odd: tuple[str, ...]


def check_weights(source: ir.Model, written: ir.Model, variant: str) -> list[dict[str, Any]]:
    """Compare all parameters of a variant's file with those of the fp32 file.

    Args:
        source: The fp32 graph, whose own parity with PyTorch is exact to rounding.
        written: The variant's, as read back from its file.
        variant: Key of ``PRECISIONS``.

    Returns:
        Rows for ``weights gain``, ``weights noise`` and ``weights uses``: ``check``, ``output``
        (the worst parameter or the first use that differs), ``error``, ``tolerance``,
        ``verdict``.

    Raises:
        InputError: Unknown variant.
        ContractError: The graphs have no parameter in common.
    """
    limits = lookup(PRECISIONS, variant, "variant")
    found = compare_weights(source, written, equalized=variant in _EQUALIZED)
    matrices = [c for c in found if c.matrix]
    if not matrices:
        raise ContractError("the variant has none of the source's matrices; quantize again")
    gains = [(c.gain, limits.gain, c.name) for c in matrices]
    bounds = [(c, limits.noise if c.matrix else limits.offset) for c in found]
    noises = [(c.noise, bound, c.name) for c, bound in bounds if bound is not None]
    odd = [use for c in found for use in c.odd]
    return [
        _row("weights gain", *max(gains)),
        _row("weights noise", *max(noises, key=lambda row: row[0] / row[1])),
        _row("weights uses", float(len(odd)), 0.0, odd[0] if odd else "all"),
    ]


def compare_weights(
    source: ir.Model, written: ir.Model, *, equalized: bool = False
) -> list[Comparison]:
    """Compare each parameter at each of its uses; see ``check_weights``.

    Args:
        source: The fp32 graph.
        written: The variant's.
        equalized: Powers of two that multiply rows and columns of a matrix are no difference.
    """
    # A tied matrix is looked up and, transposed, multiplied by: two kinds of use.
    uses: defaultdict[tuple[str, str], list[ir.Node]] = defaultdict(list)
    for node in source.graph:
        for value in parameters(node):
            uses[value.name or "", node.op_type].append(node)
    ours, theirs = Stored(source), Stored(written)
    powers: dict[str, npt.NDArray[np.int64]] = {}
    found = []
    # Matrices first: the powers of two of their columns are those of the biases behind them.
    for name, place in sorted(
        uses, key=lambda use: -array_of(source.graph.initializers[use[0]]).ndim
    ):
        nodes = uses[name, place]
        wanted = ours.at(nodes[0], name)
        if wanted is None:
            continue
        got = {node.name or "": theirs.at(node, name) for node in nodes}
        first = next((x for x in got.values() if x is not None), None)
        odd = [n for n, x in got.items() if x is None and not _DROPPED.search(n)]
        odd += [n for n, x in got.items() if x is not None and x is not first and _differ(x, first)]
        if first is None or first.shape != wanted.shape:
            found += [Comparison(name=name, matrix=False, gain=0.0, noise=0.0, odd=tuple(odd))]
            continue
        if equalized and place == "MatMul":
            rows, columns = powers_between(wanted, first)
            wanted = wanted * np.exp2(rows)[:, None] * np.exp2(columns)
            powers |= {node.name or "": columns for node in nodes}
        elif place == "Add":
            wanted = wanted * np.exp2(powers.get(_matmul_before(nodes[0]), np.zeros(1)))
        gain, noise = _distances(wanted, first, 1 if place == "Gather" else 0)
        matrix = wanted.ndim == 2
        found.append(Comparison(name=name, matrix=matrix, gain=gain, noise=noise, odd=tuple(odd)))
    return found


def powers_between(a: Reals, b: Reals) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return r [rows] and c [columns] with b about 2^r a 2^c, of matrices [rows, columns].

    Medians of log2 |b / a| in turn: rounding moves single values, of which small ones say least.
    """
    large = np.abs(a) > np.abs(a).max(axis=0) * 0.05
    usable = large & (b != 0)
    logs = np.full(a.shape, np.nan)
    logs[usable] = np.log2(np.abs(b[usable] / a[usable]))
    rows, columns = np.zeros(len(a)), np.zeros(a.shape[1])
    # Rows that no column says anything of keep 0.
    for _ in range(4):
        columns = _median(logs - rows[:, None], 0)
        rows = _median(logs - columns, 1)
    return rows.astype(np.int64), columns.astype(np.int64)


def _median(logs: Reals, axis: int) -> Reals:
    found = np.zeros(logs.shape[1 - axis])
    some = ~np.isnan(logs).all(axis=axis)
    found[some] = np.nanmedian(np.compress(some, logs, axis=1 - axis), axis=axis)
    return np.rint(found)


def _matmul_before(node: ir.Node) -> str:
    makers = [v.producer() for v in node.inputs if v is not None]
    return next((n.name or "" for n in makers if n is not None and n.op_type == "MatMul"), "")


def _differ(a: Reals, b: Reals | None) -> bool:
    return b is None or a.shape != b.shape or not np.array_equal(a, b)


def _distances(wanted: Reals, got: Reals, axis: int) -> tuple[float, float]:
    """Return the largest gain error, of the whole and along an axis of matrices, and the noise."""
    gain = _gain(wanted.reshape(-1, 1), got.reshape(-1, 1))
    if wanted.ndim == 2:
        columns = (wanted, got) if axis == 0 else (wanted.T, got.T)
        gain = max(gain, _gain(*columns))
    total = float((wanted**2).sum())
    # float16 has no finer step than its smallest number, whatever the size of the parameter.
    noise = float((np.maximum(np.abs(got - wanted) - _HALF_STEP, 0) ** 2).sum())
    return gain, float(np.sqrt(noise / total)) if total else float(np.sqrt(noise))


def _gain(wanted: Reals, got: Reals) -> float:
    """Return the largest |slope - 1| of the columns, beyond four standard errors of the slope."""
    energy = (wanted**2).sum(axis=0)
    used = energy > 0
    energy, wanted, got = energy[used], wanted[:, used], got[:, used]
    slopes = (wanted * got).sum(axis=0) / energy
    rest = ((got - slopes * wanted) ** 2).sum(axis=0) / max(len(wanted) - 1, 1)
    beyond = np.abs(slopes - 1) - 4 * np.sqrt(rest / energy)
    return float(beyond.max(initial=0.0))


def _row(check: str, error: float, tolerance: float, output: str) -> dict[str, Any]:
    verdict = "pass" if error <= tolerance else "fail"
    return {
        "check": check,
        "output": output,
        "error": error,
        "tolerance": tolerance,
        "verdict": verdict,
    }


Reals = npt.NDArray[np.float64]

# Operators whose stored operands are parameters, and which of the operands those may be.
PLACES = {"MatMul": (1,), "Gather": (0,), "Add": (0, 1), "LayerNormalization": (1, 2)}


class Stored:
    """Reads what nodes of one graph take as parameters, whatever form they are stored in."""

    def __init__(self, model: ir.Model) -> None:
        self._named = {node.name: node for node in model.graph}
        self._made = {v.name: node for node in model.graph for v in node.outputs}
        self._known: dict[Any, Reals | None] = {}

    def at(self, node: ir.Node, name: str) -> Reals | None:
        """Return what the node of that name, or in its place, reads for a source's parameter."""
        mine = self._named.get(node.name) or self._made.get(node.outputs[0].name)
        if mine is None:
            return None
        if mine.op_type == node.op_type:
            named = [i for i, v in enumerate(node.inputs) if v is not None and v.name == name]
            # A sum's operands may change places; a tied matrix is read through a transposition.
            places = PLACES[node.op_type] if node.op_type == "Add" or not named else named
            found = (self.real(mine.inputs[place]) for place in places)
            return next((x for x in found if x is not None), None)
        # Dynamic INT8: (integer product or rows) times scales.
        parts = [v.producer() for v in mine.inputs if v is not None]
        integers = next((n for n in parts if n is not None and n.op_type == "Cast"), None)
        scaled = next((n for n in parts if n is not None and n is not integers), None)
        product = integers.inputs[0].producer() if integers and integers.inputs[0] else None
        if product is None or scaled is None:
            return None
        table = product.op_type == "Gather"
        key = (mine.op_type, product.inputs[0 if table else 1])
        if key not in self._known:
            values = self.real(product.inputs[0 if table else 1])
            if table and scaled.inputs[0] is not None:
                scaled = scaled.inputs[0].producer() or scaled
            scales = next((x for v in scaled.inputs if (x := self.real(v)) is not None), None)
            real = values is not None and scales is not None
            self._known[key] = _scaled(values, scales, 0 if table else 1) if real else None
        return self._known[key]

    def real(self, value: ir.Value | None) -> Reals | None:
        """Return the real values of an initializer, or of what is made of one; None otherwise."""
        if value is None:
            return None
        if value not in self._known:
            self._known[value] = self._read(value)
        return self._known[value]

    def _read(self, value: ir.Value) -> Reals | None:
        if value.is_initializer():
            return array_of(value).astype(np.float64)
        node = value.producer()
        if node is None or node.op_type not in {"Cast", "Transpose", "DequantizeLinear"}:
            return None
        values = self.real(node.inputs[0])
        if values is None or node.op_type == "Cast":
            return values
        if node.op_type == "Transpose":
            return values.T
        scales = self.real(node.inputs[1])
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
        return None if scales is None else _scaled(values, scales, axis)


def _scaled(values: Any, scales: Any, axis: int) -> Reals:
    return np.asarray(values * (scales[:, None] if axis == 0 and scales.ndim else scales))


def parameters(node: ir.Node) -> list[ir.Value]:
    """Return the stored operands of a node of the fp32 graph, a transposed one by its origin."""
    found = []
    for place in PLACES.get(node.op_type, ()):
        value = node.inputs[place] if place < len(node.inputs) else None
        producer = value.producer() if value is not None else None
        if producer is not None and producer.op_type == "Transpose":
            value = producer.inputs[0]
        if value is None or not value.is_initializer():
            continue
        array = array_of(value)
        if array.size > 1 and array.dtype == np.float32:
            found.append(value)
    return found


def array_of(value: ir.Value) -> npt.NDArray[Any]:
    """Return the contents of an initializer."""
    from albert_deploy.export.graph.edit import values_of

    return values_of(value).numpy()
