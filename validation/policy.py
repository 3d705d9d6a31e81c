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
from albert_deploy.validation.dataset_table import DATASETS
from albert_deploy.validation.limits import (
    DEFAULT_LIMITS,
    METRIC_KEYS,
    VARIANT_KEYS,
    Limits,
    Statistics,
    metric_defaults,
)
from albert_deploy.validation.paired import PairedConfig

OFF = "off"
_SECTIONS = ("statistics", "baseline")
_SHARES = ("min_agreement", "max_relative_drop", "min_score_share", "relative_margin")
_POSITIVE = ("margin", "relative_margin", "max_latency_ms", "max_bytes")

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
