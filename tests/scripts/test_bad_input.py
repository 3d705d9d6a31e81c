"""Bad input ends in one line that says what to do, its exit code, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime.contract import TASKS, VARIANTS
from albert_deploy.runtime.errors import (
    AccuracyError,
    ContractError,
    InputError,
    MachineError,
    ParityError,
)
from albert_deploy.runtime.manifest import sha256_of
from albert_deploy.scripts.cli import main

BAD_INPUT, CONTRACT = InputError.exit_code, ContractError.exit_code
PARITY, ACCURACY, MACHINE = ParityError.exit_code, AccuracyError.exit_code, MachineError.exit_code
MODEL = VARIANTS["fp32"].file
NOBODY = 65534
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

Checkpoints = Callable[..., Path]


@dataclass(frozen=True, kw_only=True)
class Result:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Cli:
    """Runs the command line in this process, or in one of its own."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object) -> Result:
        self.capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        captured = self.capsys.readouterr()
        return Result(code=code, out=captured.out, err=captured.err)

    def child(self, *arguments: object, **environment: str) -> Result:
        done = subprocess.run(
            command(*arguments),
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Result(code=done.returncode, out=done.stdout, err=done.stderr)

    def refuses(self, code: int, *arguments: object, hints: tuple[str, ...], out: Path) -> Result:
        """Run and check that the command fails as documented and leaves ``out`` as it is."""
        before = state(out)
        result = self(*arguments)
        check_refusal(result, code, hints)
        assert state(out) == before
        assert strays(out) == []
        return result


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "albert_deploy.scripts.cli", *map(str, arguments)]


def check_refusal(result: Result, code: int, hints: tuple[str, ...]) -> None:
    """Check the exit code, the one ``error:`` line, which comes last, and what it says."""
    assert result.code == code, result.err
    assert "Traceback" not in result.err
    lines = result.err.rstrip("\n").split("\n")
    assert [line for line in lines if line.startswith("error:")] == lines[-1:], result.err
    for hint in hints:
        assert hint in lines[-1]


def state(folder: Path) -> dict[str, tuple[str, int]] | None:
    """Return the digest and the time of every file; None where there is no such folder."""
    if not folder.is_dir():
        return None
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): (sha256_of(path), path.stat().st_mtime_ns) for path in files
    }


def strays(out: Path) -> list[str]:
    """Return what a run left beside ``out``."""
    if not out.parent.is_dir():
        return []
    return [path.name for path in out.parent.iterdir() if path.name.startswith(f".{out.name}.")]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture(scope="session")
def first(make_checkpoint: Checkpoints) -> Path:
    """A good checkpoint; tests copy it before they damage it."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def second(make_checkpoint: Checkpoints) -> Path:
    """Another good checkpoint of the same shape."""
    return make_checkpoint(seed=1)


@pytest.fixture(scope="session")
def exported(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment directory of ``first``; tests copy it before they touch it."""
    out = tmp_path_factory.mktemp("exported") / "out"
    main(["export", str(first), "--out", str(out)])
    return out


@pytest.fixture
def source(first: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first, tmp_path / "checkpoint"))


@pytest.fixture
def deployed(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "deployed"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """A few labelled rows in the layout of SST-2."""
    words = ("long", "warm", "a river", "who", "what is the film", "zebra", "is", "where was it")
    rows = [f"the film was {word}\t{number % 2}" for number, word in enumerate(words)]
    folder = tmp_path / "sst2"
    folder.mkdir()
    text = "\n".join(["sentence\tlabel", *rows]) + "\n"
    (folder / "dev.tsv").write_text(text, encoding="utf-8")
    return folder


def edit(file: Path, **changes: object) -> None:
    """Change keys of a JSON file; None removes one."""
    value = json.loads(file.read_text(encoding="utf-8")) | changes
    kept = {key: item for key, item in value.items() if item is not None}
    file.write_text(json.dumps(kept), encoding="utf-8")


# --- the checkpoint -------------------------------------------------------------------------


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


REMOVED = object()
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


# --- pickles --------------------------------------------------------------------------------


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.place),)


def as_pickle(folder: Path, value: object = None) -> Path:
    """Replace a checkpoint's safetensors by a pickle of the same tensors, or of ``value``."""
    import torch
    from safetensors.torch import load_file

    held = load_file(folder / "model.safetensors") if value is None else value
    torch.save(held, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder / "pytorch_model.bin"


def test_a_pickle_is_refused_unless_allowed(cli: Cli, source: Path, out: Path) -> None:
    as_pickle(source)
    hints = ("only as a pickle (pytorch_model.bin)", "convert it to safetensors", "--allow-pickle")
    cli.refuses(BAD_INPUT, "export", source, "--out", out, hints=hints, out=out)


def test_a_malicious_pickle_is_not_executed(
    cli: Cli, source: Path, out: Path, tmp_path: Path
) -> None:
    import torch

    place = tmp_path / "executed"
    file = as_pickle(source, {"classifier.weight": Payload(place)})
    torch.load(file, weights_only=False)
    assert place.is_dir(), "the payload does nothing, so this test shows nothing"
    place.rmdir()
    hints = ("cannot be read as plain tensors", "convert it to safetensors where it was trained")
    arguments = ("export", source, "--out", out, "--allow-pickle")
    result = cli.refuses(BAD_INPUT, *arguments, hints=hints, out=out)
    assert not place.exists()
    assert "weights_only" not in result.err  # PyTorch's own advice is to switch it off


@pytest.mark.parametrize("kept", [0, 10, 500, 20_000])
def test_a_truncated_pickle_is_refused(cli: Cli, source: Path, out: Path, kept: int) -> None:
    file = as_pickle(source)
    file.write_bytes(file.read_bytes()[:kept])
    hints = ("cannot be read as plain tensors: it is damaged", "convert it to safetensors")
    arguments = ("export", source, "--out", out, "--allow-pickle")
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=out)


@pytest.mark.parametrize("value", [[1], {"epoch": 3}, {"state_dict": {}}, {1: 2}])
def test_a_pickle_of_something_else_is_refused(
    cli: Cli, source: Path, out: Path, value: object
) -> None:
    as_pickle(source, value)
    hints = ("without tensors by name; save model.state_dict() itself",)
    arguments = ("export", source, "--out", out, "--allow-pickle")
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=out)


# --- the hub --------------------------------------------------------------------------------


def test_a_hub_that_is_out_of_reach_is_not_bad_input(
    cli: Cli, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    class Timeout(Exception):  # noqa: N818 - the HTTP client's errors are no OSErrors
        pass

    def unreachable(*_: object, **__: object) -> None:
        raise Timeout("no route to host\nsecond line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    hints = ("org/model is no folder here", "cannot be reached (no route to host)", "local folder")
    cli.refuses(MACHINE, "export", "org/model", "--out", out, hints=hints, out=out)


def test_a_model_that_the_hub_does_not_have_is_bad_input(
    cli: Cli, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    class NotFoundError(RepositoryNotFoundError):
        def __init__(self) -> None:
            Exception.__init__(self, "404")

    def missing(*_: object, **__: object) -> None:
        raise NotFoundError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", missing)
    hints = ("neither a folder here nor a readable model", "check the name and --revision")
    cli.refuses(BAD_INPUT, "export", "org/model", "--out", out, hints=hints, out=out)


def test_an_offline_run_says_so_and_shows_nothing_else(cli: Cli, out: Path, tmp_path: Path) -> None:
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    result = cli.child("export", "org/model", "--out", out, **environment)
    check_refusal(result, MACHINE, ("org/model is no folder here", "give a local folder"))
    assert len(result.err.splitlines()) == 1
    assert not out.exists()


# --- the output -----------------------------------------------------------------------------


def test_the_same_export_again_does_nothing(cli: Cli, first: Path, deployed: Path) -> None:
    before = state(deployed)
    result = cli("export", first, "--out", deployed)
    assert result.code == 0, result.err
    assert state(deployed) == before


def test_another_source_needs_force(cli: Cli, second: Path, deployed: Path) -> None:
    hints = ("already holds an export of", "pass --force to replace it or choose another --out")
    cli.refuses(BAD_INPUT, "export", second, "--out", deployed, hints=hints, out=deployed)


def test_another_task_needs_force(cli: Cli, first: Path, deployed: Path) -> None:
    arguments = ("export", first, "--out", deployed, "--task", "feature-extraction")
    cli.refuses(BAD_INPUT, *arguments, hints=("pass --force",), out=deployed)


def test_a_changed_export_needs_force(cli: Cli, first: Path, deployed: Path) -> None:
    (deployed / "tokenizer.json").write_text("{}", encoding="utf-8")
    hints = ("changed files", "pass --force")
    cli.refuses(BAD_INPUT, "export", first, "--out", deployed, hints=hints, out=deployed)


def test_force_replaces_another_export(cli: Cli, second: Path, deployed: Path) -> None:
    (deployed / "left over").touch()
    result = cli("export", second, "--out", deployed, "--force")
    assert result.code == 0, result.err
    manifest = json.loads((deployed / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["source"]["sha256"] == sha256_of(second / "model.safetensors")
    assert manifest["files"][MODEL]["sha256"] == sha256_of(deployed / MODEL)
    assert not (deployed / "left over").exists()
    assert strays(deployed) == []


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("verb", ["export", "release"])
@pytest.mark.parametrize("manifest", [None, '{"manifest_version": 3}', "no JSON"])
def test_a_foreign_folder_is_left_alone(
    cli: Cli, first: Path, out: Path, verb: str, force: tuple[str, ...], manifest: str | None
) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work", encoding="utf-8")
    if manifest is not None:
        (out / "manifest.json").write_text(manifest, encoding="utf-8")
    hints = ("is not a deployment directory", "left alone: choose another --out")
    cli.refuses(BAD_INPUT, verb, first, "--out", out, *force, hints=hints, out=out)


def test_the_checkpoint_itself_is_no_output(cli: Cli, source: Path) -> None:
    arguments = ("export", source, "--out", source, "--force")
    cli.refuses(BAD_INPUT, *arguments, hints=("left alone",), out=source)


@pytest.mark.parametrize("given", ["", ".", ".."])
def test_an_output_needs_a_name(cli: Cli, first: Path, out: Path, given: str) -> None:
    hints = ("choose a named folder for --out",)
    cli.refuses(BAD_INPUT, "export", first, "--out", given, hints=hints, out=out)


def test_a_file_is_no_output(cli: Cli, first: Path, out: Path) -> None:
    out.write_text("text", encoding="utf-8")
    hints = ("is a file; choose a folder for --out",)
    cli.refuses(BAD_INPUT, "export", first, "--out", out, hints=hints, out=out)
    assert out.read_text(encoding="utf-8") == "text"


def test_an_output_below_a_file_cannot_be_written(cli: Cli, first: Path, out: Path) -> None:
    out.touch()
    hints = ("cannot write", "choose an output that can be written")
    cli.refuses(BAD_INPUT, "export", first, "--out", out / "deep", hints=hints, out=out / "deep")


@pytest.fixture
def unprivileged(first: Path) -> Iterator[Path]:
    """A folder that everyone may enter, with a checkpoint; permissions hold, for root too."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    shutil.copytree(first, place / "checkpoint")
    (place / "checkpoint").chmod(0o755)
    for file in (place / "checkpoint").iterdir():
        file.chmod(0o644)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield place
    finally:
        if user == 0:
            os.seteuid(0)
        for folder in [path for path in place.rglob("*") if path.is_dir()]:
            folder.chmod(0o755)
        shutil.rmtree(place)


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_an_output_without_permission_is_bad_input(cli: Cli, unprivileged: Path, mode: int) -> None:
    closed = unprivileged / "closed"
    user = os.geteuid()
    if user == NOBODY:
        os.seteuid(0)
    closed.mkdir(mode=mode)
    closed.chmod(mode)
    os.seteuid(user)
    result = cli("export", unprivileged / "checkpoint", "--out", closed / "out")
    check_refusal(result, BAD_INPUT, ("Permission denied; choose an output that can be written",))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("config.json", "cannot read"),
        ("model.safetensors", "cannot read the weights"),
        ("", "cannot read"),
    ],
)
def test_a_checkpoint_without_permission_is_bad_input(
    cli: Cli, unprivileged: Path, name: str, hint: str
) -> None:
    closed, user = unprivileged / "checkpoint" / name, os.geteuid()
    if user == NOBODY:
        os.seteuid(0)
    mode = closed.stat().st_mode
    closed.chmod(0)
    os.seteuid(user)
    out = unprivileged / "out"
    result = cli("export", unprivileged / "checkpoint", "--out", out)
    if user == NOBODY:
        os.seteuid(0)
    closed.chmod(mode)
    os.seteuid(user)
    check_refusal(result, BAD_INPUT, (hint, "Permission denied"))
    assert not out.exists()


# --- a full disk ----------------------------------------------------------------------------


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every atomic write fails at its end, where the bytes have to reach the disk."""

    def fsync(_: int) -> None:
        raise FULL

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_nothing_of_an_export(cli: Cli, first: Path, out: Path) -> None:
    hints = ("No space left on device; free some space and run again",)
    cli.refuses(MACHINE, "export", first, "--out", out, hints=hints, out=out)
    assert not out.exists()


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("verb", ["export", "release"])
def test_a_full_disk_leaves_an_earlier_export(
    cli: Cli, second: Path, deployed: Path, verb: str
) -> None:
    arguments = (verb, second, "--out", deployed, "--force")
    cli.refuses(MACHINE, *arguments, hints=("free some space",), out=deployed)


def test_a_full_disk_leaves_nothing_of_a_variant(cli: Cli, deployed: Path, full_disk: None) -> None:
    arguments = ("quantize", deployed, "--variants", "int8")
    cli.refuses(MACHINE, *arguments, hints=("free some space",), out=deployed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system that holds the tokenizer and not the model."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"cannot mount a small disk: {error}")
    if done.returncode:
        pytest.skip(f"may not mount a small disk: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_really_full_disk(cli: Cli, first: Path, small_disk: Path) -> None:
    out = small_disk / "out"
    hints = ("No space left on device; free some space and run again",)
    cli.refuses(MACHINE, "export", first, "--out", out, hints=hints, out=out)
    assert list(small_disk.iterdir()) == []


# --- a deployment directory -----------------------------------------------------------------


@pytest.mark.parametrize("verb", ["quantize", "validate"])
def test_a_folder_without_a_manifest_is_no_deployment_directory(
    cli: Cli, tmp_path: Path, verb: str
) -> None:
    hints = ("has no manifest.json; make one with: albert-deploy export",)
    cli.refuses(BAD_INPUT, verb, tmp_path / "none", hints=hints, out=tmp_path / "none")


@pytest.mark.parametrize("verb", ["quantize", "validate"])
@pytest.mark.parametrize("manifest", ["{", "[]", '{"format": 1}', '{"format": 99}'])
def test_an_unreadable_manifest_is_bad_input(
    cli: Cli, deployed: Path, verb: str, manifest: str
) -> None:
    (deployed / "manifest.json").write_text(manifest, encoding="utf-8")
    hints = ("manifest.json", "export the checkpoint again")
    cli.refuses(BAD_INPUT, verb, deployed, hints=hints, out=deployed)


def flip(file: Path) -> None:
    """Change one bit in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("verb", ["quantize", "validate"])
@pytest.mark.parametrize("change", [flip, Path.unlink, lambda file: file.write_bytes(b"")])
def test_a_model_changed_after_export_breaks_the_contract(
    cli: Cli, deployed: Path, verb: str, change: Callable[[Path], object]
) -> None:
    change(deployed / MODEL)
    hints = (MODEL, "is not the file that the manifest recorded", "export or quantize again")
    cli.refuses(CONTRACT, verb, deployed, hints=hints, out=deployed)


def test_validation_reads_no_changed_tokenizer(cli: Cli, deployed: Path) -> None:
    flip(deployed / "tokenizer.json")
    hints = ("tokenizer.json is missing or is not the file",)
    cli.refuses(CONTRACT, "validate", deployed, hints=hints, out=deployed)


def test_validation_needs_the_right_source(cli: Cli, second: Path, deployed: Path) -> None:
    hints = ("has weights", "the directory was made from", "pass --source with the right one")
    cli.refuses(BAD_INPUT, "validate", deployed, "--source", second, hints=hints, out=deployed)


def test_validation_needs_a_source_at_all(cli: Cli, deployed: Path, tmp_path: Path) -> None:
    hints = ("the fp32 source is needed to validate", "see --source")
    arguments = ("validate", deployed, "--source", tmp_path / "none")
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=deployed)


@pytest.mark.parametrize("variants", ["int7", "fp32,int7", "INT8"])
def test_an_unknown_variant_lists_the_known_ones(cli: Cli, deployed: Path, variants: str) -> None:
    name = variants.rsplit(",", maxsplit=1)[-1]
    hints = (f"unknown variant {name!r}; use one of", *VARIANTS)
    arguments = ("quantize", deployed, "--variants", variants)
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=deployed)


def test_no_variant_at_all_lists_the_known_ones(cli: Cli, deployed: Path) -> None:
    hints = ("--variants names none; use some of", *VARIANTS)
    cli.refuses(BAD_INPUT, "quantize", deployed, "--variants", ",", hints=hints, out=deployed)


# --- data and gate --------------------------------------------------------------------------

ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "no label": ("the film was long\t\n", ("line 2: label is ''", "correct or remove the row")),
    "no label column": ("the film was long\n", ("line 2: 1 columns, wanted 2",)),
    "an unknown label": ("the film\t7\n", ("line 2: label is '7', wanted 0 or 1",)),
    "an empty text": (" \t1\n", ("line 2: sentence is empty", "correct or remove the row")),
    "no rows": ("", ("has a header and no rows",)),
    "a text that is too long": (
        "film " * 70 + "\t1\n",
        ("row 0 has 72 tokens, the limit is 64; shorten it or pass --truncate",),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_row_is_named(cli: Cli, deployed: Path, reviews: Path, name: str) -> None:
    rows, hints = ROWS[name]
    (reviews / "dev.tsv").write_text(f"sentence\tlabel\n{rows}", encoding="utf-8")
    arguments = ("validate", deployed, "--dataset", f"sst2={reviews}")
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=deployed)


def test_an_over_long_text_is_cut_where_asked(cli: Cli, deployed: Path, reviews: Path) -> None:
    (reviews / "dev.tsv").write_text(f"sentence\tlabel\n{'film ' * 70}\t1\n", encoding="utf-8")
    result = cli("validate", deployed, "--dataset", f"sst2={reviews}", "--truncate")
    assert result.code == 0, result.err


DATASETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "imdb=here": ("imdb=here", ("unknown data set 'imdb'; use one of: ", "sst2", "squad")),
    "sst2": ("sst2", ("--dataset sst2 needs the place of the data: --dataset sst2=PATH",)),
    "sst2=": ("sst2=", ("write sst2=PATH",)),
    "sst2=missing": ("sst2=/no/such/folder", ("does not exist; give sst2=PATH", "dev.tsv")),
    "squad": ("squad=/no/such", ("squad is data for question-answering, the checkpoint is for",)),
}


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("verb", ["validate", "release"])
def test_an_unusable_data_set_is_refused_before_the_work(
    cli: Cli, first: Path, deployed: Path, name: str, verb: str
) -> None:
    option, hints = DATASETS[name]
    arguments = (deployed,) if verb == "validate" else (first, "--out", deployed)
    cli.refuses(BAD_INPUT, verb, *arguments, "--dataset", option, hints=hints, out=deployed)


GATES: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "missing": (None, ("cannot read the gate", "give a TOML file with a table per variant")),
    "no TOML": ("fp32 = {", ("cannot read the gate", "give a TOML file")),
    "unknown variant": ("[int7]\nmax_drop = 1", ("'int7' is no variant; use", *VARIANTS)),
    "unknown key": (
        "[int8]\nmax_loss = 1",
        ("unknown key 'max_loss'; use", "max_drop", "min_sqnr_db", "min_score_share"),
    ),
    "text": ('[int8]\nmax_drop = "1"', ("int8.max_drop is '1', wanted a number",)),
    "NaN": ("[int8]\nmax_drop = nan", ("int8.max_drop is nan, wanted a number",)),
    "no table": ("int8 = 1", ("'int8' is no variant; use",)),
}


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("verb", ["validate", "release"])
def test_an_unusable_gate_is_refused_before_the_work(
    cli: Cli, first: Path, deployed: Path, tmp_path: Path, name: str, verb: str
) -> None:
    content, hints = GATES[name]
    gate = tmp_path / "gate.toml"
    if content is not None:
        gate.write_text(content, encoding="utf-8")
    arguments = (deployed,) if verb == "validate" else (first, "--out", deployed)
    cli.refuses(BAD_INPUT, verb, *arguments, "--gate", gate, hints=hints, out=deployed)


def report_of(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "reports" / "validation.json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize(
    ("limit", "code", "kind", "hint"),
    [
        ("max_relative_error = -1.0", PARITY, "parity", "of its scale, the limit is -1e+00"),
        ("max_changed_predictions = -1", ACCURACY, "accuracy", "0 predictions changed, the limit"),
    ],
)
def test_a_breach_has_its_code_and_its_report(
    cli: Cli, deployed: Path, reviews: Path, limit: str, code: int, kind: str, hint: str
) -> None:
    gate = deployed.parent / "gate.toml"
    gate.write_text(f"[fp32]\n{limit}\n", encoding="utf-8")
    result = cli("validate", deployed, "--dataset", f"sst2={reviews}", "--gate", gate)
    check_refusal(result, code, ("fp32: ", hint))
    assert "verdict: fail" in result.out
    report = report_of(deployed)
    assert report["verdict"] == report["variants"]["fp32"]["verdict"] == "fail"
    assert {breach["kind"] for breach in report["variants"]["fp32"]["breaches"]} == {kind}
    assert report["variants"]["fp32"]["sha256"] == sha256_of(deployed / MODEL)


def test_a_release_that_fails_does_not_replace_one_that_passed(
    cli: Cli, second: Path, deployed: Path, reviews: Path
) -> None:
    gate = deployed.parent / "gate.toml"
    gate.write_text("[fp32]\nmax_relative_error = -1.0\n", encoding="utf-8")
    before = state(deployed)
    arguments = ("release", second, "--out", deployed, "--force", "--variants", "fp32")
    result = cli(*arguments, "--dataset", f"sst2={reviews}", "--gate", gate)
    check_refusal(result, PARITY, ("fp32: ", "the limit is -1e+00"))
    failed = deployed.with_name("deployed.failed")
    assert str(failed) in result.out
    assert state(deployed) == before
    report = report_of(failed)
    assert report["verdict"] == "fail"
    assert report["source"]["sha256"] == sha256_of(second / "model.safetensors")
    assert strays(deployed) == strays(failed) == []


def test_a_foreign_folder_in_the_place_of_a_failure_is_left_alone(
    cli: Cli, second: Path, deployed: Path
) -> None:
    failed = deployed.with_name("deployed.failed")
    failed.mkdir()
    (failed / "notes").write_text("why it failed", encoding="utf-8")
    arguments = ("release", second, "--out", deployed, "--force")
    hints = ("deployed.failed exists and is not a deployment directory", "left alone")
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=failed)


# --- usage, and ends that nobody asked for ---------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("export",), "Missing argument 'SOURCE'"),
        (("export", "somewhere"), "Missing option '--out'"),
        (("export", "a", "--out", "b", "--fast"), "No such option"),
        (("exprot",), "No such command 'exprot'"),
        (("quantize",), "Missing argument 'DIR'"),
        (("validate", "a", "b"), "unexpected extra argument"),
    ],
)
def test_a_usage_error_has_code_2(cli: Cli, arguments: tuple[str, ...], hint: str) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert hint in result.err
    assert "Usage: albert-deploy" in result.err
    assert "Traceback" not in result.err


def test_a_bug_is_not_taken_for_bad_input(
    cli: Cli, first: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from albert_deploy.export import checkpoint

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(checkpoint, "_read_config", broken)
    result = cli("export", first, "--out", out)
    assert result.code == 10
    assert result.err.startswith("internal error: ZeroDivisionError: a bug; please report it")
    assert "Traceback" not in result.err


def test_a_process_of_its_own_shows_one_line(cli: Cli, source: Path, out: Path) -> None:
    tensors(not_finite(float("nan")))(source)
    result = cli.child("export", source, "--out", out)
    check_refusal(result, BAD_INPUT, ("NaN or infinite weights in albert.pooler.weight",))
    assert len(result.err.splitlines()) == 1
    assert result.out == ""
    assert not out.exists()


def started(arguments: list[str], out: Path, moment: str) -> subprocess.Popen[bytes]:
    """Start an export and return when its staging folder holds what ``moment`` names."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if list(out.parent.glob(f".{out.name}.partial-*/{moment}")):
            return process
        time.sleep(0.002)
    process.kill()
    process.wait()
    raise AssertionError(f"the export ended, or took a minute, before {moment} was there")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_a_killed_export_leaves_the_earlier_one(cli: Cli, second: Path, deployed: Path) -> None:
    before = state(deployed)
    arguments = command("export", second, "--out", deployed, "--force")
    for moment in ("", "tokenizer.json", "onnx", "config.json"):
        process = started(arguments, deployed, moment)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert state(deployed) == before
        assert len(strays(deployed)) == 1, "the kill came too late, or an earlier rest was kept"
    result = cli("export", second, "--out", deployed, "--force")
    assert result.code == 0, result.err
    assert strays(deployed) == []
    manifest = json.loads((deployed / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["source"]["sha256"] == sha256_of(second / "model.safetensors")
