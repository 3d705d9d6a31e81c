"""Reports that more than one test reads: one with every key, and one with as few as can be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

HOSTILE = (
    "<script>alert(1)</script>",
    "]]> & </td></table><!-- <b>",
    "שלום עולם, זה סרט טוב \u202e.drawkcab",
    "control \x00\x07\x1b[31m and \ufffe, half a \ud83d, {{ 7 * 7 }}",
    "word " * 2000,
    "a" * 400,
)


@pytest.fixture
def hostile() -> tuple[str, ...]:
    """Texts of rows that break out of what they are written into, where something is amiss."""
    return HOSTILE


@pytest.fixture
def full_report() -> dict[str, Any]:
    """A report with every key, and hostile texts in its rows."""
    return build_full_report()


@pytest.fixture
def least_report() -> dict[str, Any]:
    """A report with the keys that every report has, and no other."""
    return build_least_report()


@pytest.fixture(scope="session")
def assert_documented() -> Callable[[dict[str, Any]], None]:
    """A function that fails where a report does not fit the schema, or has a key it lacks."""
    import jsonschema

    from albert_deploy.validation.report.report import read_schema

    validator = jsonschema.Draft202012Validator(_closed(read_schema()))

    def check(report: dict[str, Any]) -> None:
        errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(report)]
        assert not errors, "\n".join(errors[:20])

    return check


def _closed(node: Any) -> Any:
    """Return a schema that admits no key that it does not list."""
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and "additionalProperties" not in node:
        closed["additionalProperties"] = False
    return closed


def build_full_report() -> dict[str, Any]:
    """See ``full_report``."""
    variants = {
        name: _variant(name, index, verdict)
        for index, (name, verdict) in enumerate(
            {"fp32": "pass", "int8": "fail", "int8-qdq": "undecided", "fp16": "pass"}.items()
        )
    }
    variants["fp8-qdq"] = _broken()
    return {
        "schema": "albert-deploy/validation/2",
        "verdict": "fail",
        "reason": "int8: accuracy fell by 1.72 points, the interval reaches beyond the margin of 1",
        "task": "text-classification",
        "time": "2026-11-21T13:00:00+00:00",
        "command": "albert-deploy validate out/mine --dataset sst2=data/SST-2",
        "source": {"path": "models/albert-sst2", "sha256": "cd" * 32},
        "dataset": {
            "name": "sst2",
            "rows": 872,
            "labelled": True,
            "skipped": 2,
            "revision": "0f1e2d3c",
            "file": "dev.tsv",
            "sha256": "ab" * 32,
        },
        "grid_cases": 45,
        "trace_rows": 32,
        "environment": {
            "python": "3.11.7",
            "packages": {"numpy": "2.4.0", "onnxruntime": "1.24.1", "torch": "2.13.0"},
            "machine": {"cpu": "Some CPU at 2.5 GHz", "cores": 2, "isa": ["avx2", "vnni"]},
        },
        "policy": {"int8": {"margin": 1.0, "confidence": 0.95}, "file": None},
        "baseline": {"file": "baseline.json", "sha256": "ef" * 32, "scores": {"accuracy": 81.9}},
        "variants": variants,
        "engines": {"sm89-fp16": _engine()},
    }


def _engine() -> dict[str, Any]:
    return {
        "file": "engines/sm89-fp16.plan",
        "sha256": "34" * 32,
        "variant": "fp16",
        "target": "sm89",
        "flavour": "tensorrt_rtx",
        "version": "1.7.1.116",
        "bytes": 31_164_284,
        "weights_bytes": 23_497_088,
        "parameter_bytes": 46_740_000,
        "scratch_bytes": 23_924_736,
        "activation_bytes": 23_924_736,
        "build_ms": 3400.5,
        "verdict": "pass",
        "checks": [_check("contract", "sharing", "pass", "23,497,088 bytes", None, None)],
        "proofs": [
            {
                "name": "sharing",
                "status": "passed",
                "found": "23,497,088 bytes of weights",
                "wanted": "at most 26,722,000 bytes",
                "why": "the build log says so",
            }
        ],
    }


def build_least_report() -> dict[str, Any]:
    """See ``least_report``."""
    output = {"finite": True, "max_abs": 0.2, "mean_abs": 0.02, "relative": 0.08, "sqnr_db": 35.4}
    variant: dict[str, Any] = {
        "file": "onnx/model.onnx",
        "sha256": "12" * 32,
        "bytes": 20_909_029,
        "verdict": "pass",
        "metrics": {},
        "agreement": None,
        "changed_predictions": None,
        "parity": {"logits": output},
        "coverage": None,
    }
    infinite = {"logits": output | {"finite": False, "sqnr_db": None, "relative": None}}
    return {
        "schema": "albert-deploy/validation/2",
        "verdict": "fail",
        "task": "text-classification",
        "source": {"path": "somewhere", "sha256": "cd" * 32},
        "dataset": {"name": None, "rows": 64, "labelled": False},
        "grid_cases": 45,
        "trace_rows": 0,
        "variants": {"fp32": variant, "int8": variant | {"verdict": "fail", "parity": infinite}},
    }


_ROUNDING = {
    "finite": True,
    "scale": 2.58,
    "source_max": 4.1e-7,
    "variant_max": 5.3e-7,
    "source_rms": 1.2e-7,
    "variant_rms": 1.3e-7,
    "ratio": 1.29,
    "changed": 1,
    "changed_ratio": 0.4,
}


def _variant(name: str, index: int, verdict: str) -> dict[str, Any]:
    drop = {"pass": 0.11, "fail": 1.72, "undecided": 0.8}[verdict]
    score = 81.77
    output = {
        "finite": True,
        "max_abs": 0.21 * index,
        "mean_abs": 0.02 * index,
        "relative": 0.08 * index,
        "scale": 2.58,
        "cosine": 0.99989,
        "sqnr_db": None if index == 0 else 40.0 - index,
        "kl": 0.0004 * index,
        "rank_agreement": 0.998,
        "agreement": 0.995,
    }
    # What the score with its interval says; an F1 as well, so that two metrics are shown.
    metrics = {
        metric: {
            "source": score + shift,
            "variant": score + shift - drop,
            "difference": -drop,
            "interval": [-drop - 0.5, -drop + 0.6],
            "variant_interval": [score + shift - 2.6, score + shift + 2.4],
            "confidence": 0.95,
            "method": "score",
            "margin": 1.0,
            "test": {"name": "mcnemar", "better": 3, "worse": 18, "p_value": 0.0015},
            "verdict": verdict,
            "rows_needed": 4200 if verdict == "undecided" else None,
        }
        for metric, shift in (("accuracy", 0.0), ("f1", 1.3))
    }
    message = f"accuracy changed by {-drop:+.2f} points, the margin is 1"
    return {
        "file": f"onnx/model_{name}.onnx",
        "sha256": f"{index}a" * 32,
        "bytes": 20_909_029 // (index + 1),
        "engine": "openvino" if name == "int8-qdq" else "trt" if name == "fp16" else "ort",
        "plan": {"file": "engines/sm89-fp16.plan", "sha256": "34" * 32} if name == "fp16" else None,
        "verdict": verdict,
        "failure": None,
        "checks": [
            _check("parity", "logits on rows", "pass", "32.5 dB, at least 10", 32.5, 10.0),
            _check("accuracy", "accuracy", verdict, message, -drop, -1.0),
            _check("contract", "files", "pass", "", None, None),
        ],
        "breaches": [{"kind": "accuracy", "message": message}] * (verdict == "fail"),
        "metrics": metrics,
        "agreement": 0.9954,
        "changed_predictions": 4,
        "changed": [{"id": "158", "source": 0, "variant": 1}],
        "flips": {
            "better": 1,
            "worse": 2,
            "other": 1,
            "rows": [
                {
                    "id": f"{100 + i}",
                    "text": text,
                    "label": 1,
                    "source": 0,
                    "variant": 1,
                    "kind": kind,
                }
                for i, (kind, text) in enumerate(
                    zip(("better", "worse", "worse", "other"), HOSTILE, strict=False)
                )
            ],
        },
        "worst_rows": [
            {
                "id": f"{i}",
                "text": text,
                "error": 0.2 / (i + 1),
                "source": {"logits": [1.25, -1.5]},
                "variant": {"logits": [1.05, -1.25 if i else None]},
            }
            for i, text in enumerate(HOSTILE)
        ],
        "parity": {"logits": output},
        "grid": {"logits": output},
        "float64": {place: {"logits": _ROUNDING} for place in ("rows", "grid")},
        "stages": [
            {
                "stage": stage,
                "output": "logits",
                "sqnr_db": 130.0 / (i + 1),
                "max_abs": 0.001 * 10**i,
                "finite": True,
            }
            for i, stage in enumerate(("export", "quantize", "engine"))
        ],
        "metamorphic": [
            {
                "check": check,
                "output": "logits",
                "error": 1e-6 * 10**i,
                "tolerance": 1e-4,
                "verdict": "pass" if i < 2 else "fail",
            }
            for i, check in enumerate(("batch 1 against 7", "row order", "left padding"))
        ],
        "blame": {
            "products": ["encoder iteration 11, ffn_output", "encoder iteration 3, query x key"],
            "kept": 2,
            "of": 87,
            "trials": 23,
            "minimal": True,
            "sqnr_db_before": 8.5,
            "sqnr_db_after": 31.25,
            "sqnr_db_all_restored": None,
        }
        if verdict == "fail"
        else None,
        "errors_histogram": {
            "edges": [0.0, *(10 ** (k / 4 - 6 + index) for k in range(13))],
            "counts": [0, *(round(100 * math.exp(-(((k - 6) / 3) ** 2))) for k in range(12))],
        },
        "latency": {
            "median_ms": 8.4 / (index + 1),
            "p95_ms": 9.9 / (index + 1),
            "batch": 1,
            "tokens": 128,
            "threads": 2,
            "runs": 50,
        },
        "trace": [_entry("encoder input", 60.0 - index, "all")]
        + [_entry(f"encoder iteration {i}", 55.0 - 3 * index - 1.5 * i, "all") for i in range(11)]
        + [_entry("encoder iteration 11", 38.0 - 3 * index, "first")]
        + [_entry("output logits", 36.0 - index, "all") | {"first_token_sqnr_db": None}],
        "coverage": {
            "uses": 30,
            "converted": 27,
            "exceptions": {"classifier.weight": "output layer"},
        },
        "weights": [
            {
                "weight": f"albert.encoder.albert_layer_groups.0.albert_layers.0.{part}.weight",
                "uses": 12,
                "converted": 12,
                "dtype": "int8",
                "reason": None,
                "granularity": "per column",
                "scales": 768,
                "integer_inputs": 11,
                "real_inputs": ["encoder iteration 11, ffn", "pooler"],
            }
            for part in ("attention.query", "attention.key", "ffn", "ffn_output")
        ],
        "calibration": {
            "file": "calibration/statistics.npz",
            "dataset": {
                "name": "sst2",
                "file": "train.tsv",
                "sha256": "ab" * 32,
                "texts": 256,
                "rows": 256,
                "tokens": 3665,
                "seed": 0,
                "source_sha256": "ef" * 32,
            },
            "rows": 256,
            "rule": "mse",
            "ranges": [
                {
                    "label": f"encoder iteration {i}, ffn_output, input",
                    "peak": 12.25 + i,
                    "range": 9.75 + i,
                    "clipped": 0.00012,
                }
                for i in range(12)
            ],
        },
    }


def _broken() -> dict[str, Any]:
    """A variant that could not be run."""
    return {
        "file": "onnx/model_fp8.onnx",
        "sha256": "9e" * 32,
        "bytes": 5_000_000,
        "engine": None,
        "verdict": "fail",
        "failure": "the engine gave no answer within 60 s on batch 7, length 512",
        "checks": [],
        "breaches": [],
        "metrics": {},
        "agreement": None,
        "changed_predictions": None,
        "changed": None,
        "flips": None,
        "worst_rows": [],
        "parity": {},
        "grid": {},
        "float64": {},
        "stages": [],
        "metamorphic": [],
        "blame": None,
        "errors_histogram": None,
        "latency": None,
        "trace": None,
        "coverage": None,
        "weights": None,
        "calibration": None,
    }


def _check(
    kind: str, name: str, verdict: str, message: str, value: float | None, limit: float | None
) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "verdict": verdict,
        "message": message,
        "value": value,
        "limit": limit,
    }


def _entry(place: str, ratio: float, tokens: str) -> dict[str, Any]:
    return {
        "after": place,
        "tokens": tokens,
        "sqnr_db": ratio,
        "first_token_sqnr_db": ratio + 1,
        "finite": True,
    }
