"""Metamorphic checks: relations between outputs that hold whatever the right answer is.

Rows of a batch do not see each other, and what the mask hides changes nothing, so two runs of one
artifact must agree. ALBERT and BERT have absolute positions: padding on the left moves a text to
other positions, and an answer may change with it, but not otherwise than the source's does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from albert_deploy.runtime.contract import CHOICES, INPUT_NAMES, SEQUENCE
from albert_deploy.runtime.errors import InputError, lookup
from albert_deploy.runtime.session import Session


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Largest errors of one variant, each a share of the root mean square of the source's output.

    Args:
        invariance: Between two runs of the artifact that must agree.
        change: Between the changes that the same edit of the inputs makes to artifact and source.
        gain: How far the artifact's response to token types, or to a mask, may be from the
            source's, as a share of it, see ``metamorphic``.
    """

    invariance: float
    change: float
    gain: float = 0.5


# float32 sums in another order differ by some 1e-6 in each of up to 24 layers; float16 and
# bfloat16 round to 2^-11 and 2^-8, and a batch may take another kernel. Static INT8 rounds with
# stored steps; dynamic INT8 with those of the whole batch, padding included, so that its
# answer to a text does depend on the company, and the figure says how much.
TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(invariance=1e-4, change=1e-4),
    "fp16": Tolerance(invariance=0.02, change=0.02),
    "bf16": Tolerance(invariance=0.1, change=0.1),
    "int8": Tolerance(invariance=0.15, change=0.35),
    "int8-qdq": Tolerance(invariance=0.05, change=0.35),
    "int8-fp16": Tolerance(invariance=0.05, change=0.35),
    "fp8-qdq": Tolerance(invariance=0.05, change=0.5),
}


@dataclass(frozen=True, kw_only=True)
class MetamorphicConfig:
    """What the checks are run on.

    Args:
        rows: Texts of each check.
        length: Tokens of a text, at most; shorter models take fewer.
        batch: Rows of the largest batch; those of a multiple choice are twice as many texts.
        seed: Seed of the texts and of the holes.

    Raises:
        InputError: A value is out of range.
    """

    rows: int = 16
    length: int = 32
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"rows": 2, "length": 4, "batch": 2}.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")


def metamorphic(
    session: Session,
    source: Session,
    *,
    contract: Mapping[str, Any],
    config: Mapping[str, Any],
    texts: Sequence[Ints],
    variant: str,
    options: MetamorphicConfig | None = None,
) -> list[dict[str, Any]]:
    """Check one artifact against itself and against the source.

    An error is the root mean square of the differences over that of the source's outputs;
    positions that the mask hides are left out. Kinds of check:

    - invariance, of the artifact alone: ``batch 1 against N``, ``row order``, ``right padding``,
      ``extra padding`` (up to the longest) and ``hidden tokens`` (other ids where the mask is 0);
    - change, against the source's change: ``left padding``, ``holed mask``;
    - value, against the source's: ``empty mask``, ``length 1``, ``longest``, ``largest batch``;
    - gain: ``token types``, ``first half hidden``, ``second half hidden``: with d the change
      that the edit makes, |<d_variant, d_source> / <d_source, d_source> - 1|: 0 where it has the
      source's effect, 1 where it has none, and rounding noise, which is in no direction,
      averages out of it.

    Args:
        session: The artifact.
        source: The fp32 source.
        contract: The manifest's contract.
        config: The checkpoint's configuration, for the number of token types.
        texts: Token ids of real texts, each int64 [tokens].
        variant: Key of ``TOLERANCES``.
        options: What to run.

    Returns:
        A row per check and output: ``check``, ``output``, ``error`` (None where not finite),
        ``tolerance`` and ``verdict``: ``pass`` or ``fail``.

    Raises:
        InputError: There are no texts, or the variant is unknown.
    """
    options = options or MetamorphicConfig()
    if not texts:
        raise InputError("got no texts for the metamorphic checks; give some rows")
    limits = lookup(TOLERANCES, variant, "variant")
    runs = Runs(session, source, contract)
    found: list[dict[str, Any]] = []

    def add(check: str, tolerance: float, errors: Mapping[str, float]) -> None:
        for output, error in errors.items():
            found.append(
                {
                    "check": check,
                    "output": output,
                    "error": error if math.isfinite(error) else None,
                    "tolerance": tolerance,
                    "verdict": "pass" if error <= tolerance else "fail",
                }
            )

    for check, errors in _invariances(runs, texts, options):
        add(check, limits.invariance, errors)
    for check, errors in _against_source(runs, texts, options):
        add(check, limits.change, errors)
    for check, errors in _gains(runs, config, texts, options):
        add(check, limits.gain, errors)
    return found


def _invariances(
    runs: Runs, texts: Sequence[Ints], options: MetamorphicConfig
) -> Iterator[tuple[str, dict[str, float]]]:
    plain = _texts(runs, texts, options)
    scale, alone = runs.source(plain), runs.variant(plain, batch=1)
    together = runs.variant(plain, batch=options.batch)
    yield "batch 1 against N", _errors(together, alone, scale)
    turned = runs.variant(plain[::-1], batch=options.batch)
    count = len(plain.ids)
    back = {n: v.reshape(count, -1)[::-1].reshape(v.shape) for n, v in turned.items()}
    yield "row order", _errors(back, together, scale)
    padding = runs.padding(plain)
    if not padding:
        return
    right = runs.variant(plain.padded(0, padding, runs.pad), batch=1)
    yield "right padding", _errors(right, alone, scale)
    longest = plain.padded(0, runs.longest - plain.ids.shape[1], runs.pad)
    yield "extra padding", _errors(runs.variant(longest, batch=1), alone, scale)
    # Not on the left: a classifier reads the first token, hidden from the others or not.
    some = holed(plain.padded(0, padding, runs.pad), options.seed)
    other = np.where(some.mask == 0, np.roll(np.resize(plain.ids, some.ids.shape), 1), some.ids)
    swapped = Inputs(ids=other, mask=some.mask, types=some.types)
    yield (
        "hidden tokens",
        _errors(runs.variant(swapped, batch=1), runs.variant(some, batch=1), runs.source(some)),
    )


def _against_source(
    runs: Runs, texts: Sequence[Ints], options: MetamorphicConfig
) -> Iterator[tuple[str, dict[str, float]]]:
    plain = _texts(runs, texts, options)
    if padding := runs.padding(plain):
        left = plain.padded(padding, 0, runs.pad)
        ours, theirs = (
            _less(run(left, batch=options.batch), run(plain, batch=options.batch))
            for run in (runs.source, runs.variant)
        )
        yield "left padding", _errors(theirs, ours, runs.source(left, batch=options.batch))
    empty = Inputs(ids=plain.ids, mask=plain.mask * 0, types=plain.types)
    for check, inputs in (
        ("holed mask", holed(plain, options.seed)),
        ("empty mask", empty),
        ("length 1", _texts(runs, texts, options, 1)),
        ("longest", _texts(runs, texts, options, runs.longest)[: 2 * runs.choices]),
    ):
        source = runs.source(inputs, batch=1)
        yield check, _errors(runs.variant(inputs, batch=1), source, source)
    source = runs.source(plain)
    yield "largest batch", _errors(runs.variant(plain), source, source)


def _gains(
    runs: Runs, config: Mapping[str, Any], texts: Sequence[Ints], options: MetamorphicConfig
) -> Iterator[tuple[str, dict[str, float]]]:
    plain = _texts(runs, texts, options)
    length = plain.ids.shape[1]
    second = (np.arange(length) >= (length + 1) // 2).astype(np.int64)
    # Never the first: heads read it.
    first = ((second == 0) & (np.arange(length) > 0)).astype(np.int64)
    edits = {
        "first half hidden": Inputs(ids=plain.ids, mask=plain.mask - first, types=plain.types),
        "second half hidden": Inputs(ids=plain.ids, mask=plain.mask - second, types=plain.types),
    }
    if int(config.get("type_vocab_size", 2)) > 1:
        edits["token types"] = Inputs(ids=plain.ids, mask=plain.mask, types=plain.types + second)
    for check, edited in edits.items():
        ours, theirs = (
            _less(run(edited, batch=1), run(plain, batch=1, seen=edited.mask))
            for run in (runs.source, runs.variant)
        )
        yield check, {name: _gain(change, theirs[name]) for name, change in ours.items()}


def _gain(change: npt.NDArray[np.float64], response: npt.NDArray[np.float64]) -> float:
    """Return how far a response is from the source's change, as a share of it."""
    energy = float((change**2).sum())
    return abs(float((change * response).sum()) / energy - 1) if energy else 0.0


def _texts(
    runs: Runs, texts: Sequence[Ints], options: MetamorphicConfig, length: int | None = None
) -> Inputs:
    length = length or min(options.length, max(runs.longest // 2, 1))
    return runs.texts(texts, rows=options.rows, length=length, seed=options.seed)


def _less(a: Outputs, b: Outputs) -> Outputs:
    return {name: a[name] - b[name] for name in a}


def _errors(a: Outputs, b: Outputs, scale: Outputs) -> dict[str, float]:
    """Return by output rms(a - b) / rms(scale); infinite where it is not a number."""
    found = {}
    for name, value in scale.items():
        if not (np.isfinite(a[name]).all() and np.isfinite(b[name]).all()):
            found[name] = math.inf
            continue
        error = float(np.sqrt(((a[name] - b[name]) ** 2).mean()))
        size = float(np.sqrt((value**2).mean()))
        found[name] = error / size if size else error
    return found


Ints = npt.NDArray[np.int64]
Outputs = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Inputs of some texts: ``ids``, ``mask`` and ``types``, each int64 [texts, tokens]."""

    ids: Ints
    mask: Ints
    types: Ints

    def __getitem__(self, rows: slice) -> Inputs:
        """Return some of the texts."""
        return Inputs(ids=self.ids[rows], mask=self.mask[rows], types=self.types[rows])

    def padded(self, left: int, right: int, pad: int) -> Inputs:
        """Return the texts with padding, which the mask hides."""
        sides = ((0, 0), (left, right))
        return Inputs(
            ids=np.pad(self.ids, sides, constant_values=pad),
            mask=np.pad(self.mask, sides),
            types=np.pad(self.types, sides),
        )


class Runs:
    """Runs texts, whatever the rank of the inputs, and compares what the mask does not hide."""

    def __init__(self, session: Session, source: Session, contract: Mapping[str, Any]) -> None:
        self._session, self._source = session, source
        self.choices = 2 if CHOICES in contract["inputs"][0]["axes"] else 1
        self.longest = int(contract["max_length"])
        self.pad = int(contract["pad_token_id"])
        self._outputs = {o["name"]: SEQUENCE in o["axes"] for o in contract["outputs"]}

    def variant(
        self, inputs: Inputs, batch: int | None = None, *, seen: Ints | None = None
    ) -> Outputs:
        """Return the artifact's outputs, those of tokens where the mask is not 0 alone.

        Args:
            inputs: Texts.
            batch: Texts of a run, or texts with choices; None takes all at once.
            seen: Mask to go by instead of the texts' own.
        """
        return self._run(self._session, inputs, batch, seen)

    def source(
        self, inputs: Inputs, batch: int | None = None, *, seen: Ints | None = None
    ) -> Outputs:
        """Return the source's outputs likewise."""
        return self._run(self._source, inputs, batch, seen)

    def _run(
        self, session: Session, inputs: Inputs, batch: int | None, seen: Ints | None
    ) -> Outputs:
        mask = inputs.mask if seen is None else seen
        count = (batch or len(inputs.ids)) * (self.choices if batch else 1)
        parts: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in self._outputs}
        for start in range(0, len(inputs.ids), count):
            some = inputs[start : start + count]
            arrays: list[Ints] = [some.ids, some.mask, some.types]
            if self.choices > 1:
                arrays = [x.reshape(-1, self.choices, x.shape[-1]) for x in arrays]
            values = session.run(dict(zip(INPUT_NAMES, arrays, strict=True)))
            for name, per_token in self._outputs.items():
                value = values[name].astype(np.float64)
                if self.choices > 1:
                    value = value.reshape(len(some.ids), *value.shape[2:])
                # What the mask hides has no meaning, but where it hides all, nothing else is left.
                part = mask[start : start + count]
                chosen = (part > 0) | ~part.any(axis=-1, keepdims=True)
                parts[name].append(value[chosen] if per_token else value)
        return {name: np.concatenate(part) for name, part in parts.items()}

    def padding(self, inputs: Inputs) -> int:
        """Return how much padding the checks add, in tokens: a third, where there is room."""
        length = int(inputs.ids.shape[1])
        return min(max(length // 3, 1), self.longest - length)

    def texts(self, texts: Sequence[Ints], *, rows: int, length: int, seed: int) -> Inputs:
        """Return texts of one length, joined where they are too short, without padding.

        Args:
            texts: Token ids of real texts, each int64 [tokens].
            rows: Number of texts; of texts with choices.
            length: Tokens of each.
            seed: Seed of which texts.
        """
        random = np.random.default_rng(seed)
        ids = np.empty((rows * self.choices, length), np.int64)
        for row in ids:
            first = int(random.integers(len(texts)))
            row[:] = np.resize(np.concatenate([*texts[first:], *texts[:first]]), length)
        return Inputs(ids=ids, mask=np.ones_like(ids), types=np.zeros_like(ids))


def holed(inputs: Inputs, seed: int) -> Inputs:
    """Hide a third of the tokens of each text, never the first: heads read it."""
    random = np.random.default_rng(seed)
    mask = inputs.mask.copy()
    for row in mask:
        seen = np.flatnonzero(row)[1:]
        row[random.choice(seen, len(seen) // 3, replace=False)] = 0
    return Inputs(ids=inputs.ids, mask=mask, types=inputs.types)
