"""Repositories hold what Triton loads, in every form and for every task."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from served_directories import (
    MAX_LENGTH,
    add_plan,
    change_record,
    check_ensemble,
    configs_of,
    deployment,
    dtype_names,
    repository,
    shape,
)

from albert_deploy.runtime.contract import INPUT_NAMES, TASKS, VARIANTS
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.inputs import FIELDS
from albert_deploy.runtime.manifest import file_record, read_manifest, write_manifest
from albert_deploy.runtime.serving.settings import Settings, read_settings
from albert_deploy.scripts.serving.network import NETWORKS
from albert_deploy.scripts.serving.options import FORMS, RepositoryConfig
from albert_deploy.scripts.serving.repository import write_repository

ENSEMBLES = [form for form in FORMS if form != "direct"]
RANKED_PROFILE = (((1, 2, 1), (4, 4, 32), (8, 8, 64)),)
# An input may become several rows, so that requests cannot share a batch axis.
SEVERAL = ("question-answering", "token-classification")


def made(tmp_path: Path, task: str, form: str, **given: Any) -> dict[str, Any]:
    directory = deployment(tmp_path / "out", task, ("fp32", "int8"))
    if form == "tensorrt":
        ranked = task == "multiple-choice"
        add_plan(directory, **({"profiles": RANKED_PROFILE} if ranked else {}))
    return configs_of(repository(directory, tmp_path / "models", form=form, **given))


def settings_of(config: Any, folder: Path) -> Settings:
    """What the model reads of its configuration."""
    import json

    told = {key: {"string_value": value.string_value} for key, value in config.parameters.items()}
    handed = {"model_config": json.dumps({"parameters": told}), "model_repository": str(folder)}
    return read_settings(handed)


def test_every_form_is_made() -> None:
    assert {"direct", *NETWORKS} == set(FORMS)


@pytest.mark.parametrize("task", TASKS)
def test_a_direct_model_takes_texts_and_answers(task: str, tmp_path: Path) -> None:
    models = made(tmp_path, task, "direct", instances=3, preferred=(4, 8), delay_us=7, queue=9)
    assert models.keys() == {"albert"}
    config, (must, may) = models["albert"], FIELDS[task]
    assert config.backend == "python"
    assert config.max_batch_size == 32
    assert [(one.name, one.optional) for one in config.input] == [
        *((name, False) for name in must),
        *((name, True) for name in may),
    ]
    for one in config.input:
        assert shape(config, one) == [-1, -1 if one.name == "choices" else 1]
    (answer,) = config.output
    assert (answer.name, shape(config, answer)) == ("answer", [-1, 1])
    assert {*dtype_names(config.input).values(), *dtype_names(config.output).values()} == {
        "TYPE_STRING"
    }
    (group,) = config.instance_group
    assert (group.count, group.Kind.Name(group.kind)) == (3, "KIND_CPU")
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 7
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 9


@pytest.mark.parametrize("form", ENSEMBLES)
@pytest.mark.parametrize("task", TASKS)
def test_the_steps_of_an_ensemble_fit_each_other(task: str, form: str, tmp_path: Path) -> None:
    models = made(tmp_path, task, form, name="mine", instances=2)
    assert check_ensemble(models, "mine") == ["mine_tokens", "mine_model", "mine_answer"]
    assert models.keys() == {"mine", "mine_tokens", "mine_model", "mine_answer"}
    network, contract = models["mine_model"], read_manifest(tmp_path / "out")["contract"]
    for tensors, specs in (
        (network.input, contract["inputs"]),
        (network.output, contract["outputs"]),
    ):
        assert [one.name for one in tensors] == [spec["name"] for spec in specs]
        for one, spec in zip(tensors, specs, strict=True):
            sizes = [axis if isinstance(axis, int) else -1 for axis in spec["axes"]]
            assert shape(network, one) == sizes
    assert tuple(one.name for one in network.input) == INPUT_NAMES
    assert set(dtype_names(network.input).values()) == {"TYPE_INT64"}
    assert set(dtype_names(network.output).values()) == {"TYPE_FP32"}
    assert network.max_batch_size > 0
    assert network.HasField("dynamic_batching")
    for name in ("mine", "mine_tokens", "mine_answer"):
        assert (models[name].max_batch_size == 0) == (task in SEVERAL)
    platform, backend = {
        "python": ("", "python"),
        "onnxruntime": ("onnxruntime_onnx", ""),
        "tensorrt": ("tensorrt_plan", ""),
    }[form]
    assert (network.platform, network.backend) == (platform, backend)
    kinds = {n: c.instance_group[0] for n, c in models.items() if c.instance_group}
    assert {n: g.Kind.Name(g.kind) for n, g in kinds.items()} == {
        "mine_tokens": "KIND_CPU",
        "mine_answer": "KIND_CPU",
        "mine_model": "KIND_GPU" if form == "tensorrt" else "KIND_CPU",
    }
    assert {group.count for group in kinds.values()} == {2}


@pytest.mark.parametrize("form", ENSEMBLES)
@pytest.mark.parametrize("task", TASKS)
def test_warm_ups_are_what_the_network_takes(task: str, form: str, tmp_path: Path) -> None:
    network = made(tmp_path, task, form, preferred=(4, 8))["albert_model"]
    assert network.model_warmup
    for warmup in network.model_warmup:
        assert 1 <= warmup.batch_size <= network.max_batch_size
        assert set(warmup.inputs) == set(INPUT_NAMES)
        for one in network.input:
            given = warmup.inputs[one.name]
            assert given.data_type == one.data_type
            assert given.zero_data
            assert len(given.dims) == len(one.dims)
            assert 1 <= given.dims[-1] <= MAX_LENGTH
    names = [warmup.name for warmup in network.model_warmup]
    assert len(set(names)) == len(names)
    if form != "tensorrt":
        assert [warmup.batch_size for warmup in network.model_warmup] == [4, 8]
    for size in network.dynamic_batching.preferred_batch_size:
        assert size <= network.max_batch_size


@pytest.mark.parametrize("form", FORMS)
def test_every_file_that_triton_wants_is_there(form: str, tmp_path: Path) -> None:
    made(tmp_path, "text-classification", form)
    models = tmp_path / "models"
    found = {str(path.relative_to(models)) for path in models.rglob("*") if path.is_file()}
    files = {
        "direct": {"albert/1/model.py"},
        "python": {"albert_model/1/model.py"},
        "onnxruntime": {"albert_model/1/model.onnx"},
        "tensorrt": {"albert_model/1/model.plan"},
    }[form]
    names = ["albert"]
    if form != "direct":
        names += ["albert_tokens", "albert_model", "albert_answer"]
        files |= {"albert/1/ensemble.txt", "albert_tokens/1/model.py", "albert_answer/1/model.py"}
    assert found == files | {f"{name}/config.pbtxt" for name in names}


@pytest.mark.parametrize("form", FORMS)
def test_code_brings_in_the_class_of_its_module(form: str, tmp_path: Path) -> None:
    made(tmp_path, "text-classification", form)
    modules = {}
    for path in (tmp_path / "models").rglob("model.py"):
        (line,) = [
            one for one in ast.parse(path.read_text()).body if isinstance(one, ast.ImportFrom)
        ]
        assert [name.name for name in line.names] == ["TritonPythonModel"]
        modules[path.parent.parent.name] = str(line.module).removeprefix(
            "albert_deploy.runtime.serving."
        )
    wanted = {"albert_tokens": "tokens", "albert_answer": "answer"}
    assert (
        modules
        == {
            "direct": {"albert": "direct"},
            "python": wanted | {"albert_model": "network"},
            "onnxruntime": wanted,
            "tensorrt": wanted,
        }[form]
    )


@pytest.mark.parametrize("form", FORMS)
def test_models_find_their_directory_and_settings(form: str, tmp_path: Path) -> None:
    given = {"variant": "fp32", "threads": 3, "max_batch": 16, "max_text_bytes": 99}
    lengths = (8, 24) if form != "direct" else ()
    models = made(tmp_path, "text-classification", form, lengths=lengths, **given)
    usual = Settings(directory=(tmp_path / "models").parent)
    for name, config in models.items():
        if config.backend != "python":
            continue
        found = settings_of(config, tmp_path / "models" / name)
        assert found.directory == usual.directory
        assert found.variant == "fp32"
        if name in ("albert", "albert_model"):
            assert found.threads == 3
        else:
            # Tokens and answers of every request have to be read with the same limits.
            assert found.lengths[:2] == (8, 24)
            assert (found.max_rows, found.max_text_bytes) == (
                models["albert_model"].max_batch_size,
                99,
            )
    if form == "direct":
        found = settings_of(models["albert"], tmp_path / "models" / "albert")
        assert (found.batch_size, found.max_text_bytes) == (16, 99)
    if form == "onnxruntime":
        threads = models["albert_model"].parameters["intra_op_thread_count"]
        assert threads.string_value == "3"


@pytest.mark.parametrize("form", ["python", "onnxruntime"])
@pytest.mark.parametrize(
    ("asked", "wanted"),
    [((), (16, 32, 64)), ((8, 40), (8, 40, 64)), ((16, 64), (16, 64)), ((128,), (64,))],
)
def test_lengths_end_with_what_the_model_takes(
    form: str, asked: tuple[int, ...], wanted: tuple[int, ...], tmp_path: Path
) -> None:
    models = made(tmp_path, "text-classification", form, lengths=asked)
    for name in ("albert_tokens", "albert_answer"):
        assert settings_of(models[name], tmp_path).lengths == wanted


def test_weights_beside_a_model_come_along(tmp_path: Path) -> None:
    directory = deployment(tmp_path / "out", "fill-mask", ("fp32", "int8"), beside=True)
    models = repository(directory, tmp_path / "models", form="onnxruntime", variant="int8")
    version = models / "albert_model" / "1"
    assert {path.name for path in version.iterdir()} == {"model.onnx", "model_int8.onnx_data"}
    assert (version / "model_int8.onnx_data").read_bytes() == b"int8"
    assert (version / "model.onnx").read_bytes() == (
        directory / "onnx/model_int8.onnx"
    ).read_bytes()
    (directory / "onnx/model_int8.onnx_data").write_bytes(b"INT8")
    with pytest.raises(ContractError, match=r"model_int8\.onnx_data is missing or is not the file"):
        repository(directory, tmp_path / "again", form="onnxruntime", variant="int8")


def test_a_changed_model_is_not_served(tmp_path: Path) -> None:
    directory = deployment(tmp_path / "out", "fill-mask")
    path = directory / "onnx/model.onnx"
    path.write_bytes(path.read_bytes() + b"\x08\x08")
    with pytest.raises(ContractError, match=r"model\.onnx is missing or is not the file"):
        repository(directory, tmp_path / "models", form="onnxruntime")


def test_only_what_onnx_runtime_runs_is_given_to_it(tmp_path: Path) -> None:
    """Of FP8 it makes an integer kernel unless it is told not to, which Triton cannot."""
    directory = deployment(tmp_path / "out", "fill-mask", VARIANTS)
    for variant in ("bf16", "fp8-qdq"):
        with pytest.raises(InputError, match=f"Triton.s ONNX Runtime does not run {variant}"):
            repository(directory, tmp_path / variant, form="onnxruntime", variant=variant)
    for variant in ("fp16", "int8", "int8-qdq", "int8-fp16"):
        repository(directory, tmp_path / variant, form="onnxruntime", variant=variant)


def test_a_variant_has_to_be_there(tmp_path: Path) -> None:
    directory = deployment(tmp_path / "out", "fill-mask", ("fp32", "int8"))
    for form in FORMS:
        with pytest.raises(InputError, match="has no fp16; it has fp32, int8; quantize it first"):
            repository(directory, tmp_path / form, form=form, variant="fp16")
        assert not (tmp_path / form).exists()


PROFILES = (((1, 1), (8, 16), (32, 16)), ((1, 17), (4, 64), (16, 64)))


def test_a_plan_is_served_with_its_profiles(tmp_path: Path) -> None:
    directory = deployment(tmp_path / "out", "text-classification")
    plan = add_plan(directory, profiles=PROFILES)
    models = configs_of(repository(directory, tmp_path / "models", form="tensorrt"))
    network = models["albert_model"]
    assert (tmp_path / "models/albert_model/1/model.plan").read_bytes() == plan.read_bytes()
    assert list(network.instance_group[0].profile) == ["0", "1"]
    # Rows of any length may come in one batch: no more than the profile of the longest takes.
    assert network.max_batch_size == 16
    assert list(network.dynamic_batching.preferred_batch_size) == [4, 8]
    assert [
        (one.batch_size, list(one.inputs["input_ids"].dims)) for one in network.model_warmup
    ] == [(8, [16]), (4, [64])]
    for name in ("albert_tokens", "albert_answer"):
        found = settings_of(models[name], tmp_path)
        assert (found.lengths, found.max_rows) == ((16, 64), 16)
    assert models["albert"].max_batch_size == 16


def test_a_plan_takes_no_longer_texts_than_it_was_built_for(tmp_path: Path) -> None:
    """Lengths may have been measured of what runs on the CPU."""
    directory = deployment(tmp_path / "out", "text-classification")
    add_plan(directory, profiles=(((1, 1), (4, 24), (8, 32)),))
    config = {"form": "tensorrt", "lengths": (8, 16, 64), "preferred": (4, 16)}
    models = configs_of(repository(directory, tmp_path / "models", **config))
    assert settings_of(models["albert_tokens"], tmp_path).lengths == (8, 16, 32)
    assert list(models["albert_model"].dynamic_batching.preferred_batch_size) == [4]


def test_the_plan_of_the_variant_is_found(tmp_path: Path) -> None:
    directory = deployment(tmp_path / "out", "text-classification", ("fp32", "fp16"))
    with pytest.raises(InputError, match="has none for fp32; name one with --plan, or build one"):
        repository(directory, tmp_path / "0", form="tensorrt")
    add_plan(directory, "l4-fp32")
    add_plan(directory, "l4-fp16", variant="fp16")
    for variant in ("fp32", "fp16"):
        out = repository(directory, tmp_path / variant, form="tensorrt", variant=variant)
        assert (out / "albert_model/1/model.plan").read_bytes() == f"a plan l4-{variant}".encode()
    add_plan(directory, "a100-fp32")
    with pytest.raises(InputError, match="has l4-fp32, a100-fp32 for fp32; name one with --plan"):
        repository(directory, tmp_path / "2", form="tensorrt")
    out = repository(directory, tmp_path / "3", form="tensorrt", plan="a100-fp32")
    assert (out / "albert_model/1/model.plan").read_bytes() == b"a plan a100-fp32"
    with pytest.raises(InputError, match="l4-fp16 is of fp16; add --variants fp16"):
        repository(directory, tmp_path / "4", form="tensorrt", plan="l4-fp16")
    for name in ("../x", "none", ""):
        with pytest.raises(InputError, match=r"wanted a name|is missing|for fp32"):
            repository(directory, tmp_path / "5", form="tensorrt", plan=name)


def test_a_plan_of_rtx_is_refused(tmp_path: Path) -> None:
    directory = deployment(tmp_path / "out", "text-classification")
    add_plan(directory, flavour="tensorrt_rtx")
    with pytest.raises(InputError, match=r"tensorrt_rtx, and Triton loads plans of TensorRT alone"):
        repository(directory, tmp_path / "models", form="tensorrt")


def test_a_damaged_or_stale_plan_is_refused(tmp_path: Path) -> None:
    directory = deployment(tmp_path / "out", "text-classification")
    plan = add_plan(directory)
    change_record(directory, "l4-fp32", vouched=False, profiles=[])
    with pytest.raises(ContractError, match=r"l4-fp32\.json is missing or is not the file"):
        repository(directory, tmp_path / "1", form="tensorrt")
    add_plan(directory)
    plan.write_bytes(plan.read_bytes() + b"x")
    with pytest.raises(ContractError, match=r"l4-fp32\.plan is missing or is not the file"):
        repository(directory, tmp_path / "2", form="tensorrt")
    add_plan(directory)
    manifest = read_manifest(directory)
    path = directory / "onnx/model.onnx"
    path.write_bytes(path.read_bytes() + b"\x08\x08")
    manifest["files"]["onnx/model.onnx"] = file_record(path)
    write_manifest(directory, manifest)
    with pytest.raises(ContractError, match=r"was built from another onnx/model\.onnx"):
        repository(directory, tmp_path / "3", form="tensorrt")


def test_a_plan_that_nobody_vouches_for_is_passed_over_or_refused(tmp_path: Path) -> None:
    directory = deployment(tmp_path / "out", "text-classification")
    add_plan(directory)
    (directory / "engines/stray.plan").write_bytes(b"?")
    repository(directory, tmp_path / "1", form="tensorrt")
    with pytest.raises(InputError, match="stray"):
        repository(directory, tmp_path / "2", form="tensorrt", plan="stray")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"form": "trt"}, "unknown form 'trt'; use one of: direct, python"),
        ({"variant": "int4"}, "unknown variant 'int4'; use: fp32"),
        ({"name": "../x"}, r"got the name '\.\./x'"),
        ({"name": ".."}, r"got the name '\.\.'"),
        ({"name": "a/b"}, "got the name"),
        ({"name": ""}, "got the name ''"),
        ({"name": "a\n"}, "got the name"),
        ({"name": "é"}, "got the name"),
        ({"name": "a" * 65}, "got the name"),
        ({"instances": 0}, "instances is 0; use at least 1"),
        ({"max_batch": 0}, "max_batch is 0; use at least 1"),
        ({"queue": 0}, "queue is 0; use at least 1"),
        ({"max_text_bytes": 0}, "max_text_bytes is 0; use at least 1"),
        ({"preferred": (64,)}, "use sizes of 1 to 32"),
        ({"preferred": (0, 8)}, "use sizes of 1 to 32"),
        ({"plan": "l4-fp16"}, "a plan goes with tensorrt"),
        ({"threads": -1}, "threads is -1; use at least 0"),
        ({"lengths": (0, 8)}, "lengths"),
        ({"lengths": (16, 8)}, "lengths"),
    ],
)
def test_what_cannot_be_served_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RepositoryConfig(**given)


def test_a_repository_says_the_same_each_time(tmp_path: Path) -> None:
    directory = deployment(tmp_path / "out", "question-answering")
    for name in ("one", "two"):
        write_repository(
            directory,
            read_manifest(directory),
            RepositoryConfig(form="onnxruntime"),
            out=tmp_path / name / "models",
            location="../..",
        )
    first, second = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*.*")
        }
        for name in ("one", "two")
    )
    assert first == second
