"""A checkpoint that cannot be exported is refused in one line that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from albert_deploy.runtime.contract import TASKS
from albert_deploy.runtime.errors import InputError

if TYPE_CHECKING:
    from tests.scripts.conftest import Cli

BAD_INPUT = InputError.exit_code


def edit(file: Path, **changes: object) -> None:
    """Change keys of a JSON file; None removes one."""
    value = json.loads(file.read_text(encoding="utf-8")) | changes
    kept = {key: item for key, item in value.items() if item is not None}
    file.write_text(json.dumps(kept), encoding="utf-8")


def cut(share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "model.safetensors"
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * share)])

    return damage


def tensors(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **changes)


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def not_finite(value: float) -> Callable[[dict[str, Any]], None]:
    def change(held: dict[str, Any]) -> None:
        held["albert.pooler.weight"][3, 5] = value

    return change


def quantized(held: dict[str, Any]) -> None:
    import torch

    held["classifier.weight"] = held["classifier.weight"].to(torch.int8)


def index(weight_map: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
        (folder / "model.safetensors").rename(folder / "shard.safetensors")
        content = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(content, encoding="utf-8")

    return damage


def foreign_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"]["vocab"]["beyond"] = 200
    file.write_text(json.dumps(content), encoding="utf-8")


def no_special_tokens(folder: Path) -> None:
    edit(folder / "tokenizer.json", post_processor=None)


DAMAGES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no configuration": (
        lambda folder: (folder / "config.json").unlink(),
        ("has no config.json; give the folder of a transformers checkpoint",),
    ),
    "configuration is no JSON": (
        text("config.json", '{"model_type": "albert"'),
        ("cannot read", "config.json", "save the checkpoint again"),
    ),
    "configuration is a list": (
        text("config.json", "[]"),
        ("supported model types: albert, bert",),
    ),
    "configuration nests too deep": (text("config.json", '{"a":' * 9999), ("cannot read",)),
    "GPT-2": (
        config(model_type="gpt2", architectures=["GPT2LMHeadModel"]),
        ("holds a gpt2 model (GPT2LMHeadModel)", "supported model types: albert, bert"),
    ),
    "model type is a list": (config(model_type=["albert"]), ("supported model types",)),
    "no vocabulary size": (config(vocab_size=None), ("vocab_size is None, wanted a whole number",)),
    "a size is text": (config(max_position_embeddings="x"), ("max_position_embeddings is 'x'",)),
    "no heads": (config(num_attention_heads=0), ("num_attention_heads is 0, wanted",)),
    "a size of the wrong type": (
        config(intermediate_size="64"),
        ("intermediate_size", "check config.json against the weights"),
    ),
    "padding is no token": (config(pad_token_id=200), ("pad_token_id is 200, wanted a token",)),
    "heads do not divide": (
        config(num_attention_heads=5),
        ("contradicts the weights", "value.weight is 32x32, config.json says 30x32"),
    ),
    "unknown activation": (
        config(hidden_act="gleu"),
        ("cannot load", "gleu", "check config.json against the weights"),
    ),
    "another hidden size": (
        config(hidden_size=48),
        ("config.json contradicts the weights", "is 32, config.json says 48"),
    ),
    "another vocabulary": (
        config(vocab_size=300),
        ("word_embeddings.weight is 200x16, config.json says 300x16",),
    ),
    "another number of labels": (
        config(id2label={"0": "a", "1": "b", "2": "c"}),
        ("classifier.weight is 2x32, config.json says 3x32",),
    ),
    "more groups than the weights have": (
        config(num_hidden_groups=2),
        ("also needs albert.encoder.albert_layer_groups.1", "save_pretrained"),
    ),
    "fewer layers than the weights have": (
        tensors(lambda held: held.update({"albert.encoder.more": held["albert.pooler.bias"] + 0})),
        ("config.json contradicts the weights", "no place for albert.encoder.more"),
    ),
    "no architecture": (
        config(architectures=None),
        ("cannot tell the task", "no architectures", "pass --task with one of", *TASKS),
    ),
    "architecture is a number": (config(architectures=5), ("cannot tell the task",)),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        ("has no model.safetensors; save the checkpoint with save_pretrained",),
    ),
    "empty weights": (cut(0), ("is truncated or damaged", "copy or download it again")),
    "half the weights": (cut(0.5), ("is truncated or damaged", "copy or download it again")),
    "a few bytes of weights lost": (cut(0.9999), ("is truncated or damaged",)),
    "corrupted header": (
        text("model.safetensors", b"\xff" * 4096),
        ("is truncated or damaged", "copy or download it again"),
    ),
    "no tensors": (tensors(lambda held: held.clear()), ("holds no tensors; save",)),
    "quantized weights": (
        tensors(quantized),
        ("not floating point: classifier.weight (I8)", "from before its quantization"),
    ),
    "NaN": (
        tensors(not_finite(float("nan"))),
        ("NaN or infinite weights in albert.pooler.weight", "take an earlier checkpoint"),
    ),
    "infinity": (tensors(not_finite(float("inf"))), ("infinite weights in albert.pooler.weight",)),
    "index of a file outside": (
        index({"classifier.weight": "../outside.safetensors"}),
        ("names ../outside.safetensors, which is not in", "copy all of its files"),
    ),
    "index of a missing file": (
        index({"a": "shard.safetensors", "b": "shard-2.safetensors"}),
        ("names shard-2.safetensors, which is not in", "copy all of its files"),
    ),
    "index of nothing": (index({}), ("names no weights; save the checkpoint again",)),
    "index of numbers": (index({"a": 1}), ("cannot read", "index.json", "save the checkpoint")),
    "no tokenizer": (
        no_tokenizer,
        ("has no tokenizer (tokenizer.json, spiece.model or vocab.txt); save the one",),
    ),
    "tokenizer is no JSON": (
        text("tokenizer.json", "{"),
        ("cannot read", "tokenizer.json", "save its fast tokenizer there"),
    ),
    "tokenizer without special tokens": (
        no_special_tokens,
        ("adds no special tokens", "[CLS] A [SEP] B [SEP]"),
    ),
    "tokenizer of another model": (
        foreign_tokenizer,
        ("the tokenizer knows token 200, the model only 200 tokens", "of another model"),
    ),
    "tokenizer settings are no JSON": (
        text("tokenizer_config.json", "{"),
        ("cannot read tokenizer_config.json", "save the tokenizer again"),
    ),
    "tokenizer without an end": (
        text("tokenizer_config.json", '{"model_max_length": Infinity}'),
        ("cannot read tokenizer_config.json", "save the tokenizer again"),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused(cli: Cli, source: Path, out: Path, name: str) -> None:
    damage, hints = DAMAGES[name]
    damage(source)
    cli.refuses(BAD_INPUT, "export", source, "--out", out, hints=hints, out=out)


def test_a_damaged_checkpoint_does_not_touch_an_earlier_export(
    cli: Cli, source: Path, deployed: Path
) -> None:
    cut(0.5)(source)
    hints = ("is truncated or damaged",)
    cli.refuses(
        BAD_INPUT, "export", source, "--out", deployed, "--force", hints=hints, out=deployed
    )


def test_a_missing_directory_names_what_was_wanted(cli: Cli, tmp_path: Path, out: Path) -> None:
    hints = ("is not a folder; give the folder of a checkpoint", "sample-sst2", "hub id")
    cli.refuses(BAD_INPUT, "export", tmp_path / "none", "--out", out, hints=hints, out=out)


def test_a_file_is_no_checkpoint(cli: Cli, first: Path, out: Path) -> None:
    file = first / "model.safetensors"
    hints = ("is not a folder; give the folder",)
    cli.refuses(BAD_INPUT, "export", file, "--out", out, hints=hints, out=out)


@pytest.mark.parametrize("given", ["n" * 300, "/" + "n" * 300, "~no-such-user/checkpoint"])
def test_a_path_that_cannot_be_looked_at_is_bad_input(cli: Cli, out: Path, given: str) -> None:
    hints = ("give a folder that can be read",)
    cli.refuses(BAD_INPUT, "export", given, "--out", out, hints=hints, out=out)


def test_a_head_that_does_not_fit_names_the_missing_tensors(
    cli: Cli, source: Path, out: Path
) -> None:
    hints = (
        "(AlbertForSequenceClassification) does not fit task question-answering",
        "AlbertForQuestionAnswering also needs qa_outputs.bias, qa_outputs.weight",
        "pass the --task that it was trained for",
    )
    arguments = ("export", source, "--out", out, "--task", "question-answering")
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=out)


def test_an_unknown_task_lists_the_known_ones(cli: Cli, source: Path, out: Path) -> None:
    hints = ("unknown task 'translation'; use auto or one of", *TASKS)
    arguments = ("export", source, "--out", out, "--task", "translation")
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=out)


@pytest.mark.medium
def test_a_process_of_its_own_shows_one_line(cli: Cli, source: Path, out: Path) -> None:
    tensors(not_finite(float("nan")))(source)
    result = cli.child("export", source, "--out", out)
    result.check_refusal(BAD_INPUT, ("NaN or infinite weights in albert.pooler.weight",))
    assert len(result.err.splitlines()) == 1
    assert result.out == ""
    assert not out.exists()
