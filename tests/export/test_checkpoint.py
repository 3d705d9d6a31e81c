"""Finding a checkpoint, telling its head and loading it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from albert_deploy.export.checkpoint import load_model
from albert_deploy.export.source import find_checkpoint, identify_task
from albert_deploy.runtime.contract import FAMILIES, TASKS
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import sha256_of

Checkpoints = Callable[..., Path]
WEIGHTS = "model.safetensors"


def outputs(model: Any) -> dict[str, Any]:
    import torch

    with torch.no_grad():
        result = model(input_ids=torch.tensor([[2, 5, 7, 9, 3]]))
    return {name: value.numpy() for name, value in result.items()}


def held(file: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(file))


@pytest.fixture(scope="session")
def reviews(make_checkpoint: Checkpoints) -> Path:
    return make_checkpoint("text-classification")


@pytest.fixture
def copied(reviews: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reviews, tmp_path / "checkpoint"))


def test_a_local_folder_is_identified_by_its_weights(reviews: Path) -> None:
    found = find_checkpoint(str(reviews))
    assert found.path == reviews
    assert found.revision is None
    assert found.weights == (reviews / WEIGHTS,)
    assert found.sha256 == sha256_of(reviews / WEIGHTS)
    assert found.config == json.loads((reviews / "config.json").read_text(encoding="utf-8"))
    assert found.to_json()["weights"] == [WEIGHTS]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", TASKS)
def test_every_head_is_told_and_loaded(
    make_checkpoint: Checkpoints, family: str, task: str
) -> None:
    import torch

    found = find_checkpoint(str(make_checkpoint(task, family)))
    assert identify_task(found.config, "auto") == task
    loaded = load_model(found, task)
    assert type(loaded.model).__name__ == FAMILIES[family] + TASKS[task].architecture
    assert not loaded.model.training
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.ignored == ()
    stored = held(found.path / WEIGHTS)
    # A tied matrix or bias counts once, however many names it has.
    assert loaded.parameter_bytes == sum(4 * tensor.numel() for tensor in stored.values())


@pytest.mark.parametrize(
    ("asked", "task"),
    [
        ("question-answering", "question-answering"),
        ("sequence-classification", "text-classification"),
        ("masked-lm", "fill-mask"),
        ("default", "feature-extraction"),
    ],
)
def test_the_task_asked_for_wins_and_may_be_a_synonym(asked: str, task: str) -> None:
    config = {"model_type": "albert", "architectures": ["AlbertForMultipleChoice"]}
    assert identify_task(config, asked) == task


@pytest.mark.parametrize(
    "asked", ["translation", "", "TEXT-CLASSIFICATION", "text2text-generation"]
)
def test_an_unknown_task_is_named_as_it_was_written(asked: str) -> None:
    with pytest.raises(InputError) as caught:
        identify_task({"model_type": "albert"}, asked)
    assert f"unknown task {asked!r}" in str(caught.value)
    assert all(name in str(caught.value) for name in TASKS)


@pytest.mark.parametrize("architectures", [None, [], ["BertForMaskedLM"], "AlbertModel", [5]])
def test_auto_needs_an_architecture_of_the_family(architectures: object) -> None:
    with pytest.raises(InputError, match=r"cannot tell the task from config\.json"):
        identify_task({"model_type": "albert", "architectures": architectures}, "auto")


def shard(folder: Path) -> None:
    """Spread the weights over two files, as save_pretrained does with large models."""
    from safetensors.torch import save_file

    tensors = held(folder / WEIGHTS)
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": []}
    files["model-00002-of-00002.safetensors"] = names[1::2]
    for file, part in files.items():
        save_file({n: tensors[n] for n in part}, folder / file, metadata={"format": "pt"})
    places = {name: file for file, part in files.items() for name in part}
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": places})
    (folder / f"{WEIGHTS}.index.json").write_text(index, encoding="utf-8")
    (folder / WEIGHTS).unlink()


def test_shards_give_the_same_model_as_one_file(reviews: Path, copied: Path) -> None:
    shard(copied)
    found = find_checkpoint(str(copied))
    assert [file.name for file in found.weights] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    whole = load_model(find_checkpoint(str(reviews)), "text-classification")
    parts = load_model(found, "text-classification")
    np.testing.assert_array_equal(outputs(parts.model)["logits"], outputs(whole.model)["logits"])


def test_the_identity_of_shards_covers_each_of_them(copied: Path) -> None:
    shard(copied)
    before = find_checkpoint(str(copied)).sha256
    last = copied / "model-00002-of-00002.safetensors"
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    assert find_checkpoint(str(copied)).sha256 != before


@pytest.mark.parametrize("outside", ["../outside.safetensors", "deep/shard.safetensors", "/abs"])
def test_an_index_names_no_file_outside_the_folder(copied: Path, outside: str) -> None:
    (copied / "deep").mkdir()
    for place in (copied.parent / "outside.safetensors", copied / "deep" / "shard.safetensors"):
        shutil.copy(copied / WEIGHTS, place)
    (copied / WEIGHTS).unlink()
    index = json.dumps({"weight_map": {"classifier.bias": outside}})
    (copied / f"{WEIGHTS}.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(InputError, match="which is not in"):
        find_checkpoint(str(copied))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_gives_the_same_model_where_it_is_allowed(
    reviews: Path, copied: Path, zipped: bool
) -> None:
    import torch

    torch.save(
        held(copied / WEIGHTS), copied / "pytorch_model.bin", _use_new_zipfile_serialization=zipped
    )
    (copied / WEIGHTS).unlink()
    with pytest.raises(InputError, match="`allow_pickle=True`"):
        find_checkpoint(str(copied))
    found = find_checkpoint(str(copied), allow_pickle=True)
    assert found.sha256 == sha256_of(copied / "pytorch_model.bin")
    theirs = load_model(found, "text-classification")
    ours = load_model(find_checkpoint(str(reviews)), "text-classification")
    np.testing.assert_array_equal(outputs(theirs.model)["logits"], outputs(ours.model)["logits"])


def test_safetensors_are_preferred_to_a_pickle(copied: Path) -> None:
    (copied / "pytorch_model.bin").write_bytes(b"not read")
    assert find_checkpoint(str(copied), allow_pickle=True).weights == (copied / WEIGHTS,)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_weights_of_another_float_type_load_as_float32(copied: Path, kind: str) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {n: t.to(getattr(torch, kind)) for n, t in held(copied / WEIGHTS).items()}
    save_file(tensors, copied / WEIGHTS, metadata={"format": "pt"})
    model = load_model(find_checkpoint(str(copied)), "text-classification").model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    name = "classifier.weight"
    assert torch.equal(model.get_parameter(name), tensors[name].float())


def test_the_position_ids_of_old_checkpoints_are_no_weights(copied: Path) -> None:
    import torch
    from safetensors.torch import save_file

    ids = torch.arange(64)[None]
    tensors = held(copied / WEIGHTS) | {"albert.embeddings.position_ids": ids}
    save_file(tensors, copied / WEIGHTS, metadata={"format": "pt"})
    assert load_model(find_checkpoint(str(copied)), "text-classification").ignored == ()


def test_a_head_that_is_left_out_is_recorded(make_checkpoint: Checkpoints) -> None:
    found = find_checkpoint(str(make_checkpoint("text-classification")))
    loaded = load_model(found, "feature-extraction")
    assert loaded.ignored == ("classifier.bias", "classifier.weight")


def test_a_name_that_is_no_folder_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"give the folder of a checkpoint .* a hub id, or a sam"):
        find_checkpoint(str(tmp_path / "none"))


def test_the_hub_gets_no_pattern_for_pickles_unless_allowed(
    reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        return str(reviews)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = find_checkpoint("org/model", revision="v2")
    assert (found.given, found.revision, found.path) == ("org/model", reviews.name, reviews)
    find_checkpoint("org/model", allow_pickle=True)
    assert [call["revision"] for call in asked] == ["v2", None]
    assert ["pytorch_model.bin" in call["allow_patterns"] for call in asked] == [False, True]
    assert not any(".py" in pattern for call in asked for pattern in call["allow_patterns"])
