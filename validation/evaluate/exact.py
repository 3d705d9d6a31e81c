"""The source in float64: what its outputs are, up to errors that float32 cannot show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from albert_deploy.runtime.errors import AlbertDeployError, InputError
from albert_deploy.runtime.session import Feeds, Session
from albert_deploy.validation.data.rows import Example, Row
from albert_deploy.validation.evaluate.batches import Outputs
from albert_deploy.validation.evaluate.evidence import Evidence
from albert_deploy.validation.evaluate.predictions import chosen
from albert_deploy.validation.evaluate.reference import open_reference
from albert_deploy.validation.evaluate.timeout import watch
from albert_deploy.validation.evaluate.workers import SOURCE
from albert_deploy.validation.parity.rounding import Rounding

# Rows that are run in float64: the first ones, and the first of those whose prediction changed.
ROWS = 32
# Variant -> where (``rows``, ``grid``) -> output -> errors.
Roundings = dict[str, dict[str, dict[str, Rounding]]]


class ExactSession(Session):
    """A checkpoint in PyTorch with float64 weights; its outputs are float64."""

    engine = "torch"

    def __init__(self, model: Any, outputs: tuple[str, ...]) -> None:
        self.model = model.double()
        self.outputs = outputs

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """See ``Session.run``; arrays are float64."""
        import torch

        if self.model is None:
            raise InputError("the session is closed; open it again")
        tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in feeds.items()}
        with torch.inference_mode():
            result = self.model(**tensors)
        return {name: result[name].numpy() for name in self.outputs}

    def close(self) -> None:
        """See ``Session.close``."""
        self.model = None


def open_exact(manifest: dict[str, Any], source: str | None = None) -> ExactSession:
    """Load the checkpoint a second time, and widen its weights, which changes none of them.

    Args:
        manifest: See ``open_reference``, as the next.
        source: Where the checkpoint is now.

    Raises:
        InputError: It is not there, or it is not the same checkpoint.
    """
    reference = open_reference(manifest, source)
    return ExactSession(reference.model, reference.outputs)


class Float64:
    """Holds runs of the source and of variants against float64, as they go by.

    Args:
        exact: Result of ``open_exact``, or a session that remembers its outputs.
        decide: Result of ``evaluate.decisions``.
        variants: Those that are looked at; others are passed over.
    """

    def __init__(
        self, exact: Session, decide: Mapping[str, str | None], variants: Iterable[str]
    ) -> None:
        self._exact, self._decide = watch(exact, "the source in float64"), decide
        self.found: Roundings = {variant: {} for variant in variants}

    def add(self, place: str, feeds: Feeds, outputs: Mapping[str, Outputs]) -> None:
        """Take in what the source and the variants that ran gave.

        Args:
            place: ``rows`` or ``grid``.
            feeds: The inputs.
            outputs: Source or variant -> outputs, each float32 [batch, ...].

        Raises:
            ContractError: The source cannot be run in float64.
        """
        looked = [variant for variant in self.found if variant in outputs]
        if not looked:
            return
        exact = self._exact.run(feeds)
        for variant in looked:
            found = self.found[variant].setdefault(
                place, {name: Rounding(decision) for name, decision in self._decide.items()}
            )
            for name, rounding in found.items():
                # Float64 by ``ExactSession``, whatever the protocol's type says.
                value: Any = exact[name]
                rounding.add(value, outputs[SOURCE][name], outputs[variant][name])

    def run(
        self,
        sessions: Mapping[str, Session],
        rows: Sequence[Feeds],
        *,
        failures: dict[str, str],
        timeout_s: float | None = None,
    ) -> None:
        """Run rows through the source and those of the variants that are looked at.

        Args:
            sessions: ``source`` and the variants.
            rows: Result of ``exact_rows``.
            failures: Why variants cannot be run: those are left out, and those that fail here
                are entered.
            timeout_s: Longest time of one run; None for no limit.

        Raises:
            AlbertDeployError: The source fails.
        """
        source = watch(sessions[SOURCE], SOURCE, timeout_s)
        watched = {n: watch(sessions[n], n, timeout_s) for n in self.found if n not in failures}
        for feeds in rows if watched else ():
            given = {SOURCE: source.run(feeds)}
            for name in list(watched):
                try:
                    given[name] = watched[name].run(feeds)
                except AlbertDeployError as error:
                    failures[name] = str(error)
                    del watched[name]
            self.add("rows", feeds, given)


def exact_rows(
    evidence: Evidence,
    variants: Iterable[str],
    encode: Callable[[Sequence[Example]], Iterable[Row]],
) -> list[Feeds]:
    """Return what is run in float64: the first rows, and the first whose prediction changed.

    Args:
        evidence: Of all rows.
        variants: Those whose changes count.
        encode: Tokenizes rows of the data set.
    """
    feeds = evidence.feeds[:ROWS]
    source = evidence.predictions.get(SOURCE, {})
    changed: dict[str, None] = {}
    for variant in variants:
        theirs = evidence.predictions.get(variant, {})
        # A number is no choice, and differs always.
        changed |= {
            row: None
            for row in theirs
            if not isinstance(source[row], float) and chosen(source[row]) != chosen(theirs[row])
        }
    rows = [example for example in evidence.examples if example.id in changed][:ROWS]
    return [*feeds, *(one for row in encode(rows) for one in row.feeds)]
