"""Engines in the reports: their sizes, who built them, and what of each is proven."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from albert_deploy.validation import wording
from albert_deploy.validation.tables import Cell, Long, Section, Table, filled, plain, verdict
from albert_deploy.validation.wording import number

COLUMNS = ("engine", "verdict", "built by", "MB", "weights, MB", "proofs")


def engine_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Return a row of ``COLUMNS`` for each engine."""
    engines: Mapping[str, Any] = report.get("engines") or {}
    rows = []
    for name, engine in engines.items():
        proofs = [f"{p['name']}: {p['status']}" for p in engine.get("proofs") or ()]
        rows.append(
            [
                name,
                plain(engine.get("verdict")),
                f"{engine.get('flavour')} {engine.get('version')}",
                wording.megabytes(engine.get("bytes")),
                wording.megabytes(engine.get("weights_bytes")),
                ", ".join(proofs),
            ]
        )
    return rows


def engines_section(report: Mapping[str, Any]) -> Section:
    """Return the HTML report's section on engines and their proofs."""
    engines: Mapping[str, Any] = report.get("engines") or {}
    rows: list[list[Cell]] = [
        [
            name,
            verdict(engine.get("verdict")),
            plain(engine.get("target")),
            f"{plain(engine.get('flavour'))} {plain(engine.get('version'))}",
            wording.megabytes(engine.get("bytes")),
            wording.megabytes(engine.get("weights_bytes")),
            wording.megabytes(engine.get("scratch_bytes")),
            number(engine.get("build_ms"), ",.0f"),
        ]
        for name, engine in engines.items()
    ]
    proofs: list[list[Cell]] = [
        [
            name,
            proof["name"],
            proof["status"],
            Long(text=proof["found"]),
            Long(text=proof["wanted"]),
        ]
        for name, engine in engines.items()
        for proof in engine.get("proofs") or ()
    ]
    columns = ("engine", "verdict", "target", "built by", "#MB", "#weights, MB", "#scratch, MB")
    return Section(
        key="engines",
        title="Engines",
        note="What was proven when they were built; what needs the GPU itself is not proven.",
        tables=filled(
            Table(caption="TensorRT plans", columns=(*columns, "#build, ms"), rows=rows),
            Table(
                caption="Proofs",
                columns=("engine", "proof", "status", "found", "wanted"),
                rows=proofs,
                folded=True,
            ),
        ),
    )
