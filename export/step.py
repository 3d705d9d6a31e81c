"""The export step: a checkpoint becomes a deployment directory with ``onnx/model.onnx``."""

from __future__ import annotations

import gc
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albert_deploy.export.checkpoint import Loaded, load_model
from albert_deploy.export.source import Source, find_checkpoint, identify_task
from albert_deploy.runtime.contract import FAMILIES, TASKS, VARIANTS, input_specs, output_specs
from albert_deploy.runtime.directory import check_replaceable, publish, staged
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import (
    FORMAT_VERSION,
    file_record,
    is_intact,
    package_version,
    read_manifest,
    write_json,
    write_manifest,
)
from albert_deploy.runtime.measure import measured

if TYPE_CHECKING:
    import onnx_ir as ir

_TOOLS = ("albert-deploy", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """How to export.

    Args:
        task: ``auto`` or a key of ``TASKS``.
        revision: Hub revision; None for the default branch.
        allow_pickle: Read ``pytorch_model.bin``, with ``weights_only=True``.
        force: Replace a deployment directory that another export made.
    """

    task: str = "auto"
    revision: str | None = None
    allow_pickle: bool = False
    force: bool = False


def export(source: str, config: ExportConfig, *, out: Path) -> dict[str, Any]:
    """Export a checkpoint into a deployment directory, unless it is there already.

    Args:
        source: Local folder, shipped sample or hub id.
        config: Options.
        out: Deployment directory; it appears whole or not at all.

    Returns:
        The manifest.

    Raises:
        InputError: The checkpoint cannot be used, or ``out`` holds something else.
        ContractError: The exported file breaks an invariant.
        MachineError: Disk full or hub out of reach.
    """
    found = find_checkpoint(source, revision=config.revision, allow_pickle=config.allow_pickle)
    task = identify_task(found.config, config.task)
    current = reusable(out, found, task, force=config.force)
    if current is not None:
        return current
    with staged(out) as work:
        manifest = export_into(work, found, task)
        publish(work, out)
    return manifest


def reusable(out: Path, source: Source, task: str, *, force: bool) -> dict[str, Any] | None:
    """Return the manifest of ``out`` if it holds this very export, None if it may be written.

    Raises:
        InputError: It holds something else, and ``force`` is not given or does not apply.
    """
    if not check_replaceable(out):
        return None
    if force:
        return None
    manifest = read_manifest(out)
    same = (
        manifest["source"]["sha256"] == source.sha256
        and manifest["source"]["config"] == source.config
        and manifest["task"] == task
        and manifest["versions"] == tool_versions()
    )
    files = [n for n in manifest["files"] if not n.startswith(("onnx/", "reports/", "engines/"))]
    if same and all(is_intact(out, manifest, n) for n in [VARIANTS["fp32"].file, *files]):
        return manifest
    raise InputError(
        f"{out} already holds an export of {manifest['source']['path']} ({manifest['task']}) "
        "that differs from this one (source, task, tool versions or changed files); "
        "pass `force=True` to replace it or choose another `out`"
    )


def export_into(work: Path, source: Source, task: str) -> dict[str, Any]:
    """Write a complete fp32 deployment directory into an empty folder; return its manifest."""
    from albert_deploy.export.checks import check_artifact
    from albert_deploy.export.graph.file import save
    from albert_deploy.export.tokenizer import write_tokenizer
    from albert_deploy.export.trace import OPSET, register

    family = source.config["model_type"]
    limits = write_tokenizer(source.path, work, source.config)
    with measured() as loading:
        loaded = load_model(source, task, attention=register())
    with measured() as tracing:
        model, passes = _graph(loaded, source, task)
    config, parameter_bytes, ignored = loaded.config, loaded.parameter_bytes, loaded.ignored
    inputs, outputs = input_specs(TASKS[task]), output_specs(TASKS[task], config)
    path = work / VARIANTS["fp32"].file
    with measured() as writing:
        save(model, path)
        # The parameters back the graph's weights; both go before the file is read again.
        del model, loaded
        gc.collect()
        check_artifact(
            path, variant="fp32", parameter_bytes=parameter_bytes, inputs=inputs, outputs=outputs
        )
    architecture = FAMILIES[family] + TASKS[task].architecture
    write_json(work / "config.json", source.config | {"architectures": [architecture]})
    manifest = {
        "format": FORMAT_VERSION,
        "task": task,
        "source": source.to_json() | {"ignored_tensors": list(ignored)},
        "contract": describe_contract(task, config, limits),
        "parameter_bytes": parameter_bytes,
        "opset": OPSET,
        "versions": tool_versions(),
        "files": {
            str(p.relative_to(work)): file_record(p) for p in sorted(work.rglob("*")) if p.is_file()
        },
        "steps": {
            "load": loading.to_json(),
            "trace": tracing.to_json() | {"passes": passes},
            "write": writing.to_json(),
        },
        "variants": {"fp32": {"file": VARIANTS["fp32"].file}},
    }
    write_manifest(work, manifest)
    return manifest


def _graph(loaded: Loaded, source: Source, task: str) -> tuple[ir.Model, dict[str, int]]:
    """Trace, normalize, name and stamp; return the graph and the changes of each pass."""
    from albert_deploy.export.graph import naming
    from albert_deploy.export.graph.passes import drop_annotations, normalize
    from albert_deploy.export.trace import trace

    config = loaded.config
    family, inner = config["model_type"], int(config.get("inner_group_num", 1))
    model = trace(loaded.model, task, config)
    passes = normalize(model)
    naming.name_initializers(model, naming.canonical_names(loaded.model))
    naming.name_constants(model)
    uses = int(config["num_hidden_layers"]) * inner
    naming.name_nodes(model, family, uses=uses, inner=inner)
    drop_annotations(model)
    versions = tool_versions()
    model.graph.name = f"{family}-{task}"
    model.producer_name, model.producer_version = "albert-deploy", versions["albert-deploy"]
    # The oldest that opset 20 allows, so that older runtimes read the file too.
    model.ir_version = 9
    # No path: two exports of one checkpoint have the same bytes wherever it lies.
    stamp = {"source_sha256": source.sha256, "task": task}
    model.metadata_props.clear()
    model.metadata_props.update(stamp | {f"version_{k}": v for k, v in versions.items()})
    return model, passes


def describe_contract(task: str, config: dict[str, Any], limits: dict[str, int]) -> dict[str, Any]:
    """Return what the manifest says of a model's inputs, outputs and labels.

    Args:
        task: Key of ``TASKS``.
        config: The checkpoint's configuration with its defaults.
        limits: Result of ``write_tokenizer``.
    """
    return {
        "family": config["model_type"],
        "inputs": [spec.to_json() for spec in input_specs(TASKS[task])],
        "outputs": [spec.to_json() for spec in output_specs(TASKS[task], config)],
        "labels": _labels(config),
        "problem_type": _problem_type(config, task),
        **limits,
    }


def tool_versions() -> dict[str, str]:
    """Return the versions of the tools that shape an artifact."""
    found = {name: package_version(name) or "absent" for name in _TOOLS}
    return {"python": platform.python_version()} | found


def _labels(config: dict[str, Any]) -> list[str]:
    labels = config.get("id2label") or {}
    return [str(labels[key]) for key in sorted(labels, key=int)]


def _problem_type(config: dict[str, Any], task: str) -> str | None:
    if task != "text-classification":
        return None
    if config.get("problem_type"):
        return str(config["problem_type"])
    return "regression" if len(_labels(config)) == 1 else "single_label_classification"
