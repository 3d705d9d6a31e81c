"""Deployment directories made by hand, and what Triton's protobuf reads of their repositories."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest

from albert_deploy.runtime.contract import TASKS, VARIANTS, input_specs, output_specs
from albert_deploy.runtime.manifest import (
    FORMAT_VERSION,
    file_record,
    read_manifest,
    write_json,
    write_manifest,
)
from albert_deploy.scripts.serving.options import RepositoryConfig
from albert_deploy.scripts.serving.repository import write_repository

MAX_LENGTH = 64
_CONFIG = {"model_type": "albert", "hidden_size": 32, "vocab_size": 200, "num_labels": 4}
EMPTY = {
    "format": FORMAT_VERSION,
    "source": {"config": _CONFIG},
    "steps": {},
    "parameter_bytes": 0,
    "versions": {},
}
Shapes = tuple[Sequence[int], Sequence[int], Sequence[int]]


def deployment(
    folder: Path, task: str, variants: Iterable[str] = ("fp32",), *, beside: bool = False
) -> Path:
    """Make a directory whose models are valid ONNX files without a node; ``beside``: with data."""
    (folder / "onnx").mkdir(parents=True)
    row = TASKS[task]
    contract = {
        "family": "albert",
        "inputs": [spec.to_json() for spec in input_specs(row)],
        "outputs": [spec.to_json() for spec in output_specs(row, _CONFIG)],
        "labels": ["a", "b", "c", "d"],
        "max_length": MAX_LENGTH,
        "pad_token_id": 0,
    }
    names = {}
    for variant in variants:
        file = VARIANTS[variant].file
        model = onnx.ModelProto(ir_version=10, producer_name=variant)
        if beside:
            place = f"{Path(file).name}_data"
            tensor = model.graph.initializer.add(name="w", data_type=1, dims=[1])
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=place)
            (folder / "onnx" / place).write_bytes(variant.encode())
        (folder / file).write_bytes(model.SerializeToString())
        names[variant] = {"file": file}
    (folder / "tokenizer.json").write_text("{}")
    files = {
        path.relative_to(folder).as_posix(): file_record(path)
        for path in folder.rglob("*")
        if path.is_file()
    }
    manifest = {"task": task, "contract": contract, "variants": names, "files": files}
    write_manifest(folder, EMPTY | manifest)
    return folder


def add_plan(
    directory: Path,
    name: str = "l4-fp32",
    *,
    variant: str = "fp32",
    flavour: str = "tensorrt",
    profiles: Iterable[Shapes] = (((1, 1), (8, 32), (32, 64)),),
) -> Path:
    """Add a plan and its record as the build step writes them; the plan is not one."""
    manifest = read_manifest(directory)
    (directory / "engines").mkdir(exist_ok=True)
    plan, told, source = f"engines/{name}.plan", f"engines/{name}.json", VARIANTS[variant].file
    (directory / plan).write_bytes(b"a plan " + name.encode())
    manifest["files"][plan] = file_record(directory / plan)
    record = {
        "format": 1,
        "plan": plan,
        "sha256": manifest["files"][plan]["sha256"],
        "bytes": manifest["files"][plan]["bytes"],
        "task": manifest["task"],
        "variant": variant,
        "target": name.partition("-")[0],
        "capability": [8, 9],
        "onnx": {"file": source, "sha256": manifest["files"][source]["sha256"]},
        "flavour": flavour,
        "version": "10.9.0.34",
        "settings": {},
        "inputs": manifest["contract"]["inputs"],
        "outputs": manifest["contract"]["outputs"],
        "profiles": [
            dict(zip(("min", "opt", "max"), map(list, one), strict=True)) for one in profiles
        ],
    }
    write_json(directory / told, record)
    manifest["files"][told] = file_record(directory / told)
    manifest.setdefault("engines", {})[name] = {
        "file": plan,
        "record": told,
        "variant": variant,
        "flavour": flavour,
        "version": record["version"],
    }
    write_manifest(directory, manifest)
    return directory / plan


def change_record(directory: Path, name: str, *, vouched: bool, **changes: Any) -> None:
    """Change a record; ``vouched``: in the manifest too."""
    path = directory / f"engines/{name}.json"
    write_json(path, json.loads(path.read_text()) | changes)
    if vouched:
        manifest = read_manifest(directory)
        manifest["files"][f"engines/{name}.json"] = file_record(path)
        write_manifest(directory, manifest)


def repository(directory: Path, out: Path, *, location: str = "../..", **given: Any) -> Path:
    """Write the repository of a directory."""
    config = RepositoryConfig(**given)
    write_repository(directory, read_manifest(directory), config, out=out, location=location)
    return out


def parsed(text: str) -> Any:
    """A configuration as Triton reads it."""
    configs = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient")
    from google.protobuf import text_format

    return text_format.Parse(text, configs.ModelConfig())


def configs_of(models: Path) -> dict[str, Any]:
    """The configuration of each model of a repository, whose folder has its name."""
    found = {}
    for folder in sorted(models.iterdir()):
        found[folder.name] = parsed((folder / "config.pbtxt").read_text(encoding="utf-8"))
        assert found[folder.name].name == folder.name
        assert [path.name for path in folder.iterdir() if path.is_dir()] == ["1"]
    return found


def dtype_names(tensors: Any) -> dict[str, str]:
    """The type of each tensor, such as ``TYPE_INT64``."""
    from tritonclient.grpc.model_config_pb2 import DataType

    return {one.name: DataType.Name(one.data_type) for one in tensors}


def shape(model: Any, tensor: Any) -> list[int]:
    """All axes of a tensor, the batch in front where the model has one."""
    return [*([-1] if model.max_batch_size else []), *tensor.dims]


def check_ensemble(models: dict[str, Any], name: str) -> list[str]:
    """Check what Triton checks of an ensemble, and return its models in order."""
    whole = models[name]
    types = dtype_names(whole.input)
    known = {one.name: (types[one.name], shape(whole, one)) for one in whole.input}
    optional = {one.name for one in whole.input if one.optional}
    used, order = set(), []
    for step in whole.ensemble_scheduling.step:
        model = models[step.model_name]
        order.append(step.model_name)
        assert step.model_version == -1
        if whole.max_batch_size:
            assert model.max_batch_size >= whole.max_batch_size
        types = dtype_names(model.input)
        assert set(step.input_map) == set(types)
        for one in model.input:
            place = step.input_map[one.name]
            assert known[place] == (types[one.name], shape(model, one)), one.name
            assert one.optional == (place in optional)
            used.add(place)
        types = dtype_names(model.output)
        assert set(step.output_map) <= set(types)
        for one in model.output:
            if one.name in step.output_map:
                assert step.output_map[one.name] not in known
                known[step.output_map[one.name]] = (types[one.name], shape(model, one))
    types = dtype_names(whole.output)
    for one in whole.output:
        assert known[one.name] == (types[one.name], shape(whole, one))
    assert used >= {one.name for one in whole.input}
    return order
