"""The policy file of a gate: limits by variant, task or data set, and metric; strictly read."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import TASKS, VARIANTS
from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.data.table import DATASETS
from albert_deploy.validation.scores.paired import PairedConfig

# What becomes of a verdict that the data cannot give.
UNDECIDED = ("fail", "pass")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one variant, or of one metric of it; None does not limit.

    Args:
        max_error_ratio: Largest error over the source's own, both against the source in float64,
            on the first rows and on the edge grid; see ``parity.rounding``.
        max_relative_error: Largest difference over the output's largest magnitude, on real
            rows and on the edge grid.
        min_sqnr_db: Least signal to noise ratio of an output, on both, in dB.
        max_changed_predictions: Most rows of the data set whose prediction may change.
        min_agreement: Least share of rows whose prediction stays, 0 to 1.
        max_latency_ms: Longest median latency, in ms.
        max_bytes: Most bytes of the variant's files.
        min_score: Least score, in percent; where lower is better, the largest.
        max_drop: Most points of a score that may be lost, as measured.
        max_relative_drop: Most of the source's score that may be lost, as measured, 0 to 1.
        min_score_share: Least share of the source's score, as measured: the same limit from the
            other end, 1 - ``max_relative_drop``.
        margin: Points whose loss the data must rule out at ``confidence``.
        relative_margin: Share of the source's score whose loss the data must rule out, 0 to 1.
        confidence: Of the interval that is held against the margins; None for that of the
            policy's statistics.
        max_regression: Most points that may be lost against the baseline.
    """

    max_error_ratio: float | None = None
    max_relative_error: float | None = None
    min_sqnr_db: float | None = None
    max_changed_predictions: int | None = None
    min_agreement: float | None = None
    max_latency_ms: float | None = None
    max_bytes: int | None = None
    min_score: float | None = None
    max_drop: float | None = None
    max_relative_drop: float | None = None
    min_score_share: float | None = None
    margin: float | None = None
    relative_margin: float | None = None
    confidence: float | None = None
    max_regression: float | None = None


VARIANT_KEYS = tuple(field.name for field in fields(Limits))
# What a metric may be limited in; the rest is of the variant as a whole.
METRIC_KEYS = VARIANT_KEYS[VARIANT_KEYS.index("min_score") :]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """How intervals are made, and what becomes of a verdict that the data cannot give.

    Args:
        confidence: See ``PairedConfig``, as the next two.
        resamples: Bootstrap resamples.
        seed: Of the resampling.
        undecided: ``fail`` or ``pass``.

    Raises:
        InputError: A value is out of range.
    """

    confidence: float = PairedConfig.confidence
    resamples: int = PairedConfig.resamples
    seed: int = PairedConfig.seed
    undecided: str = UNDECIDED[0]

    def __post_init__(self) -> None:
        self.paired()
        if self.undecided not in UNDECIDED:
            raise InputError(f"undecided is {self.undecided!r}, wanted {' or '.join(UNDECIDED)}")

    def paired(self, confidence: float | None = None) -> PairedConfig:
        """Return how a metric is compared, at a confidence of its own if it has one."""
        chosen = self.confidence if confidence is None else confidence
        return PairedConfig(confidence=chosen, resamples=self.resamples, seed=self.seed)


# fp32 is the same arithmetic in another order: what it may change is not left to chance, and
# the data need not be large enough to show it. One row in 500 may be a near tie.
_FLOAT32 = Limits(max_error_ratio=8.0, min_agreement=0.998)
_INT8 = Limits(min_sqnr_db=10.0, min_score_share=0.99, margin=2.0)
DEFAULT_LIMITS: dict[str, Limits] = {
    "fp32": _FLOAT32,
    "fp16": Limits(min_sqnr_db=40.0, max_drop=0.5, margin=1.5),
    "bf16": Limits(min_sqnr_db=25.0, max_drop=0.5, margin=1.5),
    "int8": _INT8,
    "int8-qdq": _INT8,
    "int8-fp16": _INT8,
    "fp8-qdq": Limits(min_sqnr_db=8.0, min_score_share=0.99, margin=2.0),
}

_NOT_JUDGED: dict[str, float | None] = dict.fromkeys(
    ("max_drop", "min_score_share", "margin"), None
)
# A changed row moves these 2 to 4 times as far as accuracy, so that limits in shares of the score
# would be a matter of one or two rows.
_MATTHEWS: dict[str, dict[str, float | None]] = {
    "fp16": {"max_drop": 1.25, "margin": 3.75},
    "bf16": {"max_drop": 1.25, "margin": 3.75},
    "int8": {"max_drop": 2.5, "min_score_share": None, "margin": 5.0},
}
# Not in percent: shares of the source's value instead of points.
_PERPLEXITY: dict[str, float | None] = {
    **_NOT_JUDGED,
    "max_relative_drop": 0.02,
    "relative_margin": 0.04,
}
# Scores of a part of the rows, and those whose threshold is the best for the rows at hand.
PARTS = (
    "HasAns_exact",
    "HasAns_f1",
    "NoAns_exact",
    "NoAns_f1",
    "best_exact",
    "best_f1",
    "accuracy_middle",
    "accuracy_high",
)


def metric_defaults(variant: str, metric: str) -> Mapping[str, Any]:
    """Return where the default limits of a metric differ from those of its variant."""
    if variant == "fp32":
        return {}
    if metric in PARTS:
        return _NOT_JUDGED
    if metric == "pseudo_perplexity":
        return _PERPLEXITY
    if metric == "matthews":
        return _MATTHEWS.get(variant, _MATTHEWS["int8"])
    return {}


OFF = "off"
_SECTIONS = ("statistics", "baseline")
_SHARES = ("min_agreement", "max_relative_drop", "min_score_share", "relative_margin")
_POSITIVE = ("margin", "relative_margin", "max_error_ratio", "max_latency_ms", "max_bytes")

# (variant, task or data set or None, metric or None) -> keys of ``Limits`` that it sets.
Overrides = Mapping[tuple[str, str | None, str | None], Mapping[str, float | None]]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a release must hold.

    Args:
        statistics: How intervals are made.
        max_regression: Most points that a score may lose against the baseline; None is any.
        overrides: What the file sets, over the defaults.
        file: Where it was read; None for the defaults.
    """

    statistics: Statistics = field(default_factory=Statistics)
    max_regression: float | None = 1.0
    overrides: Overrides = field(default_factory=dict)
    file: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form that reports hold: what was set, beside the statistics."""
        tables = {
            ".".join(part for part in place if part): dict(values)
            for place, values in self.overrides.items()
        }
        return {
            "file": self.file,
            "statistics": asdict(self.statistics),
            "baseline": {"max_regression": self.max_regression},
            "limits": {name: _set(limits) for name, limits in DEFAULT_LIMITS.items()},
            "overrides": tables,
        }


@dataclass(frozen=True, kw_only=True)
class Rules:
    """A policy as it holds for one variant on one task and data set.

    Args:
        policy: The policy.
        variant: A key of ``VARIANTS``.
        task: A key of ``TASKS``; None where only the variant counts.
        dataset: A key of ``DATASETS``; None without one.
    """

    policy: Policy
    variant: str
    task: str | None = None
    dataset: str | None = None

    @property
    def limits(self) -> Limits:
        """Limits of the variant as a whole."""
        shared = {"max_regression": self.policy.max_regression}
        return replace(DEFAULT_LIMITS[self.variant], **(shared | self._own(None, None)))

    def metric(self, name: str) -> Limits:
        """Return the limits of a metric: what is set most closely holds.

        From far to near: the variant's, the metric's defaults, then the file's tables
        [variant.task], [variant.dataset], [variant.task.metric] and [variant.dataset.metric].
        """
        limits = replace(self.limits, **metric_defaults(self.variant, name))
        for metric in (None, name):
            for place in (self.task, self.dataset):
                if place is not None:
                    limits = replace(limits, **self._own(place, metric))
        return limits

    def paired_config(self, metric: str) -> PairedConfig:
        """Return how a metric is to be compared."""
        return self.policy.statistics.paired(self.metric(metric).confidence)

    def _own(self, place: str | None, metric: str | None) -> dict[str, Any]:
        return dict(self.policy.overrides.get((self.variant, place, metric), {}))


def read_policy(path: Path | None) -> Policy:
    """Read a policy from TOML; what the file does not set keeps its default.

    Raises:
        InputError: No such file, not TOML, or something in it that is not known; the message
            names the file and the key, and lists what may stand there.
    """
    if path is None:
        return Policy()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"cannot read the gate {path}: {error}; give a TOML file with a table per variant"
        ) from error
    overrides: dict[tuple[str, str | None, str | None], dict[str, float | None]] = {}
    for name, table in tables.items():
        if name in _SECTIONS:
            if not isinstance(table, dict):
                raise InputError(f"{path}: {name!r} is {table!r}, wanted a table [{name}]")
            continue
        if name not in VARIANTS or not isinstance(table, dict):
            raise InputError(
                f"{path}: {name!r} is no variant; use {', '.join(VARIANTS)}, "
                f"or a table {' or '.join(_SECTIONS)}"
            )
        _read_variant(path, name, table, overrides)
    baseline = _numbers(path, "baseline", tables.get("baseline", {}), ("max_regression",))
    return Policy(
        statistics=_statistics(path, tables.get("statistics", {})),
        overrides=overrides,
        file=str(path),
        **baseline,
    )


def _read_variant(
    path: Path,
    variant: str,
    table: Mapping[str, Any],
    found: dict[tuple[str, str | None, str | None], dict[str, float | None]],
) -> None:
    """Add what the table of a variant sets, with the tables in it, to what was found."""
    own = {key: value for key, value in table.items() if not isinstance(value, dict)}
    found[variant, None, None] = _numbers(path, variant, own, VARIANT_KEYS)
    for place, inner in table.items():
        if not isinstance(inner, dict):
            continue
        where = f"{variant}.{place}"
        metrics = _metrics(place)
        if metrics is None:
            raise InputError(
                f"{path}: {where} is no task or data set; "
                f"use one of: {', '.join((*TASKS, *DATASETS))}"
            )
        own = {key: value for key, value in inner.items() if not isinstance(value, dict)}
        found[variant, place, None] = _numbers(path, where, own, METRIC_KEYS)
        for metric, values in inner.items():
            if not isinstance(values, dict):
                continue
            if metric not in metrics:
                raise InputError(
                    f"{path}: {where}.{metric} is no metric of {place}; "
                    f"use one of: {', '.join(metrics) or 'none, no data set scores it'}"
                )
            found[variant, place, metric] = _numbers(path, f"{where}.{metric}", values, METRIC_KEYS)


def _metrics(place: str) -> tuple[str, ...] | None:
    """Return the metrics of a task or data set; None if it is neither."""
    if place in DATASETS:
        return DATASETS[place].metrics
    if place not in TASKS:
        return None
    return tuple(dict.fromkeys(m for d in DATASETS.values() if d.fits(place) for m in d.metrics))


def _numbers(
    path: Path, where: str, table: Mapping[str, Any], known: tuple[str, ...]
) -> dict[str, float | None]:
    """Check the limits of a table; ``off`` becomes None."""
    found: dict[str, float | None] = {}
    for key, value in table.items():
        if key not in known:
            raise InputError(
                f"{path}: unknown key {key!r}; use {', '.join(sorted(known))} in [{where}]"
            )
        if value == OFF:
            found[key] = None
            continue
        # NaN would compare false with everything, and so limit nothing.
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise InputError(f"{path}: {where}.{key} is {value!r}, wanted a number or {OFF!r}")
        if key in _SHARES and not 0 <= value <= 1:
            raise InputError(f"{path}: {where}.{key} is {value!r}, wanted a share from 0 to 1")
        if key in _POSITIVE and value < 0:
            raise InputError(f"{path}: {where}.{key} is {value!r}, wanted 0 or more")
        if key == "confidence":
            _made(path, where, PairedConfig, confidence=value)
        found[key] = value
    return found


def _statistics(path: Path, table: Mapping[str, Any]) -> Statistics:
    kinds: dict[str, tuple[tuple[type, ...], str]] = {
        "confidence": ((int, float), "a number"),
        "resamples": ((int,), "a whole number"),
        "seed": ((int,), "a whole number"),
        "undecided": ((str,), "a text"),
    }
    for key, value in table.items():
        if key not in kinds:
            raise InputError(
                f"{path}: unknown key {key!r}; use {', '.join(sorted(kinds))} in [statistics]"
            )
        types, wanted = kinds[key]
        if isinstance(value, bool) or not isinstance(value, types):
            raise InputError(f"{path}: statistics.{key} is {value!r}, wanted {wanted}")
    made: Statistics = _made(path, "statistics", Statistics, **table)
    return made


def _made(path: Path, where: str, config: type, **values: Any) -> Any:
    """Make a config, and name the file where it refuses a value."""
    try:
        return config(**values)
    except InputError as error:
        raise InputError(f"{path}: {where}.{error}") from error


def _set(limits: Limits) -> dict[str, float]:
    """Return the limits that are set."""
    values = {f.name: getattr(limits, f.name) for f in fields(limits)}
    return {name: value for name, value in values.items() if value is not None}
