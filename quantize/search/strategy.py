"""In which order a search tries what to keep: operators, iterations, then as few as hold."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from albert_deploy.export.graph.uses import Use
from albert_deploy.quantize.search.trials import Trial

CEILING = "weights alone rounded"


@dataclass(frozen=True, kw_only=True)
class TrialRequest:
    """A trial that a strategy wants.

    Attributes:
        step: Why, for people.
        kept: Labels of the products to keep.
        alone: Whether it only tells what a product harms. Such are run by the engine of the
            fp32 file where it can: engines for speed may round by themselves what is real in
            the file, which hides the harm (OpenVINO does where weights are INT8).
    """

    step: str
    kept: frozenset[str]
    alone: bool = False


# What a strategy asks for, and what it is told.
Requests = Generator[TrialRequest, Trial, None]
Holds = Callable[[Trial], bool]


def strategy(uses: Sequence[Use], holds: Holds, most: int) -> Requests:
    """Ask for trials, most informative first; the fewest kept products that hold are the answer.

    How much a product harms is the noise that it alone makes, all others left real: where many
    are bad, leaving out one of them shows nothing. Operators come first, all of their iterations
    together; single iterations only of the operators that must be touched.

    Args:
        uses: Products that may be kept.
        holds: Whether a trial passes.
        most: Most products that may be kept.

    Yields:
        The trial to run next; is sent what came out.
    """
    every = frozenset(p.label for p in uses)
    plain = yield TrialRequest(step="everything rounded", kept=frozenset())
    if holds(plain):
        return
    ceiling = yield TrialRequest(step=CEILING, kept=every, alone=True)
    if not holds(ceiling):
        return
    groups: dict[str, set[str]] = {}
    for use in uses:
        groups.setdefault(use.operator, set()).add(use.label)
    noise: dict[str, float] = {}
    for operator, labels in groups.items():
        trial = yield TrialRequest(step=f"only {operator}", kept=every - labels, alone=True)
        noise[operator] = trial.noise
    pool: list[str] = []
    harm: dict[str, float] = {}
    touched: list[str] = []
    for operator in sorted(groups, key=lambda name: -noise[name]):
        touched.append(operator)
        pool += [p.label for p in uses if p.operator == operator]
        if len(pool) <= most:
            trial = yield TrialRequest(step=f"keep {' + '.join(touched)}", kept=frozenset(pool))
            if not holds(trial):
                continue
        for label in pool:
            if label not in harm:
                trial = yield TrialRequest(step=f"only {label}", kept=every - {label}, alone=True)
                harm[label] = trial.noise
        ranked = sorted(pool, key=lambda label: -harm[label])[:most]
        trial = yield _first(ranked, len(ranked))
        if holds(trial):
            yield from _shrink(ranked, holds)
            return


def _first(ranked: Sequence[str], count: int) -> TrialRequest:
    return TrialRequest(step=f"keep the {count} most harmful", kept=frozenset(ranked[:count]))


def _shrink(ranked: list[str], holds: Holds) -> Requests:
    """Cut a list that holds, most harmful first: bisect its length, then take back one by one."""
    fails, enough = 0, len(ranked)
    while enough - fails > 1:
        middle = (fails + enough) // 2
        trial = yield _first(ranked, middle)
        fails, enough = (fails, middle) if holds(trial) else (middle, enough)
    kept = ranked[:enough]
    for label in reversed(ranked[:enough]):
        fewer = [k for k in kept if k != label]
        trial = yield TrialRequest(step=f"take back {label}", kept=frozenset(fewer))
        if holds(trial):
            kept = fewer
