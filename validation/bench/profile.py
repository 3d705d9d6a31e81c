"""Where a variant's time goes in ONNX Runtime on the CPU, by what people call its operators.

ONNX Runtime's own profiler times each node of the graph that it made of ours: it fuses and
renames nodes when it loads a file, so they are told apart by path and by operator.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import variant_named
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import check_file, read_manifest
from albert_deploy.runtime.session import Feeds
from albert_deploy.validation.bench.workload import fitting_lengths, random_row
from albert_deploy.validation.tables import markdown_table

# ``self`` is in BERT's paths only.
_ATTENTION = r"attention/(?:self/)?"
_PRODUCT = r"Fused\w*|Gemm|MatMul\w*|DynamicQuantizeMatMul|QLinearMatMul|QGemm"
# Class -> patterns of operator type and of node name; the first row that fits counts.
_CLASSES: tuple[tuple[str, str, str], ...] = (
    ("GELU", r"\w*Gelu|Erf", r".*"),
    ("GELU", r"\w+", r".*(?:activation|intermediate_act_fn)/.*"),
    ("normalization", r"\w*LayerNormalization", r".*"),
    ("softmax and mask", r"\w+", rf".*{_ATTENTION}(?:softmax/.*|Softmax|Add)"),
    ("query x key", _PRODUCT, rf".*{_ATTENTION}(?:MatMul(?:/.*)?|scores/.*)"),
    ("probabilities x value", _PRODUCT, rf".*{_ATTENTION}(?:MatMul_1(?:/.*)?|context/.*)"),
    ("quantize", r"\w*QuantizeLinear", r".*"),
    ("quantize", r"\w+", r".*/(?:scores|context)/.*"),
    ("query, key, value, dense", _PRODUCT, rf".*{_ATTENTION}.*"),
    ("feed-forward layers", _PRODUCT, r"encoder/iteration_.*"),
    ("bias and residual", r"Add|SkipLayerNormalization", r"encoder/.*"),
    ("transposes", r"Transpose|Reshape", r"encoder/.*"),
    ("embeddings and heads", r"\w+", r".*"),
)
# What is left of a run: the profiler itself, and what ONNX Runtime does from node to node.
BETWEEN = "profiler, between nodes"


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """What to profile, at batch 1.

    Args:
        variant: Key of ``VARIANTS``.
        lengths: Tokens of a row.
        threads: Threads inside one operator.
        runs: Profiled runs of each length; an operator's time is its shortest.
        seed: Seed of the random token ids.

    Raises:
        InputError: A number is too small or the variant is unknown.
    """

    variant: str = "int8"
    lengths: tuple[int, ...] = (32, 128, 384)
    threads: int = 1
    runs: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        variant_named(self.variant)
        if not self.lengths or min(self.lengths) < 1:
            raise InputError(f"got lengths {self.lengths}; give at least one, of 1 token or more")
        for name in ("threads", "runs"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")


def profile(directory: Path, config: ProfileConfig) -> dict[str, Any]:
    """Profile one variant of a deployment directory; writes nothing there.

    Args:
        directory: Deployment directory.
        config: Options.

    Returns:
        ``variant``, ``threads`` and ``lengths``: by length, ``profile_file``'s answer.

    Raises:
        InputError: The variant is not there, or no length fits.
        ContractError: The file is not the one that the manifest records.
        MachineError: ONNX Runtime is not installed.
    """
    manifest = read_manifest(directory)
    file = variant_named(config.variant).file
    check_file(directory, manifest, file)
    lengths, _ = fitting_lengths(config.lengths, int(manifest["contract"]["max_length"]))
    rows = {n: random_row(manifest, n, seed=config.seed) for n in lengths}
    return {
        "variant": config.variant,
        "threads": config.threads,
        "lengths": {
            str(n): profile_file(directory / file, feeds, threads=config.threads, runs=config.runs)
            for n, feeds in rows.items()
        },
    }


def profile_file(path: Path, feeds: Feeds, *, threads: int = 1, runs: int = 20) -> dict[str, Any]:
    """Profile one ONNX file on one input.

    Args:
        path: The file.
        feeds: The three inputs.
        threads: Threads inside one operator.
        runs: Profiled runs, after two that are not counted.

    Returns:
        ``run_ms``, the shortest run, and ``operators``: class of operators -> ``ms``, the
        sum of each node's shortest time, and ``nodes``.

    Raises:
        MachineError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MachineError(
            "ONNX Runtime is not installed; run: pip install 'albert-deploy[cpu]'"
        ) from error
    warmup = 2
    with tempfile.TemporaryDirectory(prefix="albert-deploy-") as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            path, sess_options=options, providers=["CPUExecutionProvider"]
        )
        for _ in range(warmup + runs):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _summary(events, warmup)


def operator_class(op_type: str, name: str) -> str:
    """Return what people call a node of an encoder, by operator type and node name."""
    return next(
        label
        for label, types, names in _CLASSES
        if re.fullmatch(types, op_type) and re.fullmatch(names, name)
    )


def table(report: Mapping[str, Any]) -> str:
    """Return a profile as a table in GitHub's Markdown: ms, and share of the run."""
    columns = report["lengths"]
    labels = [*dict.fromkeys(label for label, _, _ in _CLASSES), BETWEEN]
    rows = []
    for label in labels:
        cells = [
            _cell(c["operators"].get(label, {}).get("ms"), c["run_ms"]) for c in columns.values()
        ]
        if any(cells):
            rows.append([label, *cells])
    rows.append(["whole run", *(f"{c['run_ms']:.2f}" for c in columns.values())])
    headers = [f"{report['variant']}, ms", *(f"{n} tokens" for n in columns)]
    align = ("left", *("right" for _ in columns))
    return markdown_table(rows, headers, align)


def _summary(events: list[dict[str, Any]], warmup: int) -> dict[str, Any]:
    times: dict[tuple[str, str], list[float]] = {}
    whole: list[float] = []
    for event in events:
        milliseconds = float(event.get("dur", 0)) / 1e3
        if event.get("name") == "model_run":
            whole.append(milliseconds)
        elif event.get("cat") == "Node" and str(event["name"]).endswith("_kernel_time"):
            key = str(event["args"]["op_name"]), str(event["name"]).removesuffix("_kernel_time")
            times.setdefault(key, []).append(milliseconds)
    run = min(whole[warmup:])
    operators: dict[str, dict[str, Any]] = {}
    for (op_type, name), runs in times.items():
        row = operators.setdefault(operator_class(op_type, name), {"ms": 0.0, "nodes": 0})
        row["ms"] += min(runs[warmup:])
        row["nodes"] += 1
    known = sum(row["ms"] for row in operators.values())
    operators[BETWEEN] = {"ms": max(run - known, 0.0), "nodes": 0}
    return {"run_ms": run, "operators": operators}


def _cell(milliseconds: float | None, whole: float) -> str:
    return "" if milliseconds is None else f"{milliseconds:.2f} ({milliseconds / whole:.0%})"
