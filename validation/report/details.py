"""The sections below the scores: where errors come from, what was converted, and with what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from albert_deploy.validation.report import wording
from albert_deploy.validation.report.tables import (
    Column,
    Section,
    Table,
    filled,
    record_table,
    variant_rows,
)
from albert_deploy.validation.report.wording import MISSING, compact


def metamorphic(report: Mapping[str, Any]) -> Section:
    """Return what inputs that mean the same changed in the outputs."""
    columns: list[Column] = [
        "variant",
        "check",
        "output",
        ("#error", "error", ".2e"),
        ("#tolerance", "tolerance", ".2e"),
        "verdict",
    ]
    caption = "Change of the outputs under a change that means nothing"
    return Section(
        key="metamorphic",
        title="Metamorphic checks",
        lead="What must not change an answer, such as padding, must not.",
        tables=[record_table(caption, columns, variant_rows(report, "metamorphic"))],
        in_summary=False,
    )


def stages(report: Mapping[str, Any]) -> Section:
    """Return the error that each step from the checkpoint to the engine adds."""
    columns: list[Column] = [
        "variant",
        "stage",
        "output",
        ("#SQNR, dB", "sqnr"),
        ("#max error", "max_abs", ".2e"),
    ]
    rows = (row | {"sqnr": wording.sqnr(row)} for row in variant_rows(report, "stages"))
    return Section(
        key="stages",
        title="Error by stage",
        lead="What each step from the checkpoint to the engine adds.",
        tables=[record_table("Error that each stage adds", columns, rows)],
    )


def blame(report: Mapping[str, Any]) -> Section:
    """Return which operators make a variant fail."""
    columns: list[Column] = [
        "variant",
        ("operators", "products"),
        "#kept",
        "#of",
        "#trials",
        ("#SQNR before, dB", "sqnr_db_before", ".1f"),
        ("#SQNR after, dB", "sqnr_db_after", ".1f"),
    ]
    rows = [
        {"variant": name} | blame | {"products": blame["products"] or "none found"}
        for name, variant in report["variants"].items()
        if (blame := variant.get("blame"))
    ]
    return Section(
        key="blame",
        title="Blame",
        lead="The smallest set of operators that, kept in float, makes a failing variant pass.",
        tables=[record_table("Operators to keep in float", columns, rows)],
    )


def parity(report: Mapping[str, Any]) -> Section:
    """Return how far each output is from the source's."""
    columns: list[Column] = [
        "variant",
        "output",
        "on",
        ("#SQNR, dB", "sqnr"),
        ("#max error", "max_abs", ".2e"),
        ("#mean error", "mean_abs", ".2e"),
        ("#of scale", "relative", ".2e"),
        ("#cosine", "cosine", ".6f"),
        ("#KL", "kl", ".2e"),
        ("#agreement", "agreement", ".2%"),
        ("#rank agreement", "rank_agreement", ".4f"),
    ]
    rows = [
        {"variant": name, "output": output, "on": where, "sqnr": wording.sqnr(found)} | found
        for name, variant in report["variants"].items()
        for key, where in (("parity", "rows"), ("grid", "edge grid"))
        for output, found in variant.get(key, {}).items()
    ]
    exact_columns: list[Column] = [
        "variant",
        "output",
        "on",
        ("#source, max", "source_max", ".2e"),
        ("#variant, max", "variant_max", ".2e"),
        ("#source, rms", "source_rms", ".2e"),
        ("#variant, rms", "variant_rms", ".2e"),
        ("#ratio", "ratio", ".2f"),
        ("#changed decisions", "changed"),
    ]
    exact = [
        {"variant": name, "output": output, "on": where} | found
        for name, variant in report["variants"].items()
        for key, where in (("rows", "first and changed rows"), ("grid", "edge grid"))
        for output, found in (variant.get("float64") or {}).get(key, {}).items()
    ]
    caption = "Errors of source and variant against the source in float64, of its scale"
    return Section(
        key="parity",
        title="Parity",
        tables=[
            record_table("Each output against the source's", columns, rows, folded=True),
            record_table(caption, exact_columns, exact, folded=True),
        ],
        in_summary=False,
    )


def trace(report: Mapping[str, Any]) -> Section:
    """Return the error after each iteration of the encoder."""
    found = {
        name: {_place(entry): wording.sqnr(entry) for entry in variant["trace"]}
        for name, variant in report["variants"].items()
        if variant.get("trace")
    }
    places = dict.fromkeys(place for trace in found.values() for place in trace)
    rows = [[place, *(trace.get(place, MISSING) for trace in found.values())] for place in places]
    columns = ["after", *(f"#{name}" for name in found)]
    return Section(
        key="trace",
        title="Error trace",
        lead="The hidden state against that of the fp32 file, on the first "
        f"{report['trace_rows']} rows (not padded).",
        tables=[Table(caption="SQNR in dB", columns=columns, rows=rows)],
    )


def _place(entry: Mapping[str, Any]) -> str:
    # A head that reads no other token has no other one computed in the last iteration.
    return str(entry["after"]) + (", first token" if entry["tokens"] == "first" else "")


def engines(report: Mapping[str, Any]) -> Section:
    """Return the section on TensorRT engines and what was proven of them."""
    columns: list[Column] = [
        "engine",
        "verdict",
        "target",
        ("built by", "builder"),
        ("#MB", "bytes"),
        ("#weights, MB", "weights_bytes"),
        ("#scratch, MB", "scratch_bytes"),
        ("#build, ms", "build_ms", ",.0f"),
    ]
    proof_columns: list[Column] = ["engine", ("proof", "name"), "status", "found", "wanted"]
    built, proofs = [], []
    for name, engine in (report.get("engines") or {}).items():
        sizes = {
            key: wording.megabytes(engine.get(key))
            for key in ("bytes", "weights_bytes", "scratch_bytes")
        }
        builder = f"{compact(engine.get('flavour'))} {compact(engine.get('version'))}"
        built.append(engine | sizes | {"engine": name, "builder": builder})
        proofs += [{"engine": name} | proof for proof in engine.get("proofs") or ()]
    return Section(
        key="engines",
        title="Engines",
        lead="What was proven when they were built; what needs the GPU itself is not proven.",
        tables=filled(
            [
                record_table("TensorRT plans", columns, built),
                record_table("Proofs", proof_columns, proofs, folded=True),
            ]
        ),
    )


def coverage(report: Mapping[str, Any]) -> Section:
    """Return every weight of every variant that converts some."""
    always: list[Column] = ["weight", "#uses", "#converted", ("data type", "dtype")]
    details: dict[str, Column] = {
        "granularity": "granularity",
        "scales": "#scales",
        "integer_inputs": ("#rounded activations", "integer_inputs"),
        "real_inputs": ("activations left real", "real_inputs"),
        "reason": "reason",
    }
    tables = []
    for name, variant in report["variants"].items():
        weights = variant.get("weights") or ()
        told = [column for key, column in details.items() if any(row.get(key) for row in weights)]
        uses, converted = (sum(row[key] for row in weights) for key in ("uses", "converted"))
        caption = f"{name}: {len(weights)} weights, {converted} of {uses} uses converted"
        tables.append(record_table(caption, [*always, *told], weights, folded=True))
    return Section(
        key="coverage",
        title="Coverage",
        lead="Every weight, and why one that was left in float was.",
        tables=tables,
    )


def calibration(report: Mapping[str, Any]) -> Section:
    """Return what ranges of activations were set on, and to what."""
    columns: list[Column] = [
        ("activation", "label"),
        ("#peak", "peak", ".4g"),
        ("#range", "range", ".4g"),
        ("#clipped", "clipped", ".3%"),
    ]
    notes, tables = [], []
    for name, variant in report["variants"].items():
        record = variant.get("calibration")
        if record:
            rule = f", ranges by {record['rule']}" if record.get("rule") else ""
            kept = f", statistics in {record['file']}" if record.get("file") else ""
            origin = wording.origin(record["dataset"])
            notes.append(f"{name}: {record['rows']} rows of {origin}{rule}{kept}.")
            ranges = record.get("ranges") or ()
            caption = f"{name}: {len(ranges)} ranges"
            tables.append(record_table(caption, columns, ranges, folded=True))
    return Section(
        key="calibration",
        title="Calibration",
        lead="Peak: largest magnitude seen. Range: largest that is not clipped. Clipped: share of "
        "the values seen that lie outside.",
        notes=notes,
        tables=tables,
    )


def environment(report: Mapping[str, Any]) -> Section:
    """Return files with their hashes, the machine, packages and policy."""
    environment, data = report.get("environment") or {}, report["dataset"]
    files = [
        {"what": "source"} | report["source"] | {"file": report["source"]["path"]},
        {"what": "data"} | data,
        *({"what": name} | variant for name, variant in report["variants"].items()),
    ]
    columns: list[Column] = ["what", "file", ("SHA-256", "sha256"), ("#bytes", "bytes", ",")]
    machine = {"python": environment.get("python")} | (environment.get("machine") or {})
    pairs = {
        "Machine": {key: value for key, value in machine.items() if value is not None},
        "Packages": environment.get("packages"),
        "Policy of the gate": report.get("policy"),
        "Baseline": report.get("baseline"),
    }
    lists = [
        record_table(
            caption,
            ("name", "value"),
            ({"name": key, "value": value} for key, value in (values or {}).items()),
            folded=True,
        )
        for caption, values in pairs.items()
    ]
    return Section(
        key="environment",
        title="Environment and hashes",
        tables=[record_table("Files", columns, files), *lists],
        in_summary=False,
    )
