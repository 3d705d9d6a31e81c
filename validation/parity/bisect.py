"""Which products make a variant fail: the fewest to dequantize so that it holds.

Delta debugging (Zeller and Hildebrandt 2002, "Simplifying and isolating failure-inducing input")
over pairs of an operator and an iteration: sets of products of the written file compute in
float32 again, until none of a set can be left out.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.engines.table import choose_engine, open_file
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import check_file
from albert_deploy.runtime.session import Feeds, Session
from albert_deploy.validation.parity.difference import Difference
from albert_deploy.validation.parity.stages import engine_as_written, open_as_written

if TYPE_CHECKING:
    from albert_deploy.export.graph.uses import Use


@dataclass(frozen=True, kw_only=True)
class BisectConfig:
    """What to hold, and how long to search.

    Args:
        min_sqnr_db: Signal to noise ratio that the variant has to reach, in dB.
        budget: Most sets of products that are tried.

    Raises:
        InputError: ``budget`` is below 3 or the ratio is not finite.
    """

    min_sqnr_db: float = 10.0
    budget: int = 60

    def __post_init__(self) -> None:
        if self.budget < 3 or not math.isfinite(self.min_sqnr_db):
            raise InputError(
                f"got budget {self.budget} and min_sqnr_db {self.min_sqnr_db}; wanted 3 trials at "
                "least and a finite ratio"
            )


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """What was found.

    Attributes:
        products: Labels of the products to dequantize, such as ``encoder iteration 11,
            ffn_output``, in the order of execution; empty where the variant holds, or where
            dequantizing all of them does not help: the fault is elsewhere.
        of: Number of products.
        trials: Sets that were tried.
        minimal: Whether each of ``products`` is needed; False where the budget ended before.
        before: Ratio of the worst output as written, in dB.
        after: With ``products`` dequantized.
        all_dequantized: With all of them dequantized.
    """

    products: tuple[str, ...]
    of: int
    trials: int
    minimal: bool
    before: float
    after: float
    all_dequantized: float

    def to_json(self) -> dict[str, Any]:
        """Return the form that reports hold; a ratio that is not finite is null."""
        ratios = {
            "sqnr_db_before": self.before,
            "sqnr_db_after": self.after,
            "sqnr_db_all_restored": self.all_dequantized,
        }
        return {
            "products": list(self.products),
            "kept": len(self.products),
            "of": self.of,
            "trials": self.trials,
            "minimal": self.minimal,
            **{k: round(v, 2) if math.isfinite(v) else None for k, v in ratios.items()},
        }


def bisect(
    directory: Path,
    manifest: Mapping[str, Any],
    variant: str,
    rows: Sequence[Feeds],
    config: BisectConfig,
    *,
    source: Session | None = None,
    file: Path | None = None,
) -> Bisection:
    """Name the products whose arithmetic keeps a variant from its signal to noise ratio.

    Files run in ONNX Runtime as they are written, without fusing Q/DQ, where it runs the variant:
    what another engine makes of a file is a stage of its own, see ``attribution``.

    Args:
        directory: Deployment directory.
        manifest: Its manifest.
        variant: Key of ``VARIANTS``, not ``fp32``.
        rows: Inputs, int64 [batch, sequence] or [batch, choices, sequence] each.
        config: Limit and budget.
        source: What outputs are compared with; None for the fp32 file.
        file: The variant's file, where it is not the recorded one.

    Raises:
        InputError: There are no rows, or the variant is fp32, which has nothing to dequantize.
        ContractError: A file is not the one that the manifest records, or is refused.
        MachineError: No engine for the variant is installed.
    """
    from albert_deploy.export.graph.file import load, save
    from albert_deploy.export.graph.uses import find_uses
    from albert_deploy.validation.parity.dequantize_use import dequantize_uses

    if not rows or variant == "fp32":
        raise InputError(f"got {len(rows)} rows and {variant}; give rows and a converted variant")
    plain = check_file(directory, dict(manifest), VARIANTS["fp32"].file)
    written = file or check_file(directory, dict(manifest), VARIANTS[variant].file)
    graph = load(plain)
    uses = find_uses(graph)
    engine = engine_as_written(variant) or choose_engine(manifest, variant)
    if source is None:
        with open_file(plain, "fp32", choose_engine(manifest, "fp32")) as session:
            expected = [session.run(feeds) for feeds in rows]
    else:
        expected = [source.run(feeds) for feeds in rows]
    with (
        tempfile.TemporaryDirectory(prefix="albert-deploy-") as folder,
        tqdm(total=config.budget, desc="bisect", unit="trial", disable=None, leave=False) as bar,
    ):

        def ratio(some: Sequence[Use]) -> float:
            model = load(written)
            dequantize_uses(model, graph, some)
            path = Path(folder) / "dequantized.onnx"
            save(model, path)
            found = {name: Difference(None) for name in expected[0]}
            with open_as_written(path, variant, engine) as session:
                for feeds, wanted in zip(rows, expected, strict=True):
                    outputs = session.run(feeds)
                    for name, difference in found.items():
                        difference.add(wanted[name], outputs[name])
            bar.update()
            return min(difference.sqnr_db for difference in found.values())

        return _search(uses, ratio, config)


def _search(
    uses: Sequence[Use], ratio: Callable[[Sequence[Use]], float], config: BisectConfig
) -> Bisection:
    known: dict[tuple[int, ...], float] = {}

    def holds(places: Sequence[int]) -> bool:
        key = tuple(places)
        if key not in known:
            if len(known) >= config.budget:
                raise _SpentError
            known[key] = ratio([uses[i] for i in key])
        return known[key] >= config.min_sqnr_db

    everything = list(range(len(uses)))
    found, minimal = everything, True
    if holds([]) or not holds(everything):
        found = []
    else:
        try:
            for found in smallest(everything, holds):
                minimal = len(found) == 1
            minimal = True
        except _SpentError:
            minimal = False
    return Bisection(
        products=tuple(uses[i].label for i in found),
        of=len(uses),
        trials=len(known),
        minimal=minimal,
        before=known[()],
        after=known[tuple(found)],
        all_dequantized=known.get(tuple(everything), known[()]),
    )


def smallest(items: Sequence[int], holds: Callable[[Sequence[int]], bool]) -> Any:
    """Yield ever smaller subsets that hold; none of the last one's items can be left out.

    Args:
        items: A set that holds, in order.
        holds: Whether a subset, in the same order, does.
    """
    current, parts = list(items), 2
    while len(current) > 1:
        size = math.ceil(len(current) / parts)
        pieces = [current[i : i + size] for i in range(0, len(current), size)]
        rests = [[i for i in current if i not in set(piece)] for piece in pieces]
        smaller = next((piece for piece in pieces if holds(piece)), None)
        if smaller is not None:
            current, parts = smaller, 2
            yield current
            continue
        rest = next((rest for rest in rests if len(pieces) > 2 and holds(rest)), None)
        if rest is not None:
            current, parts = rest, max(len(pieces) - 1, 2)
            yield current
        elif len(pieces) >= len(current):
            return
        else:
            parts = min(2 * len(pieces), len(current))


class _SpentError(Exception):
    """The budget is spent."""
