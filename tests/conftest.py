"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import logging
import os
import shutil
import string
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock
from models import PRETRAINING
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from albert_deploy.export.step import ExportConfig, export
from albert_deploy.runtime.contract import VARIANTS

REPOSITORY = Path(__file__).resolve().parent.parent

# Workers of a run share the cores, and OpenMP's idle threads spin; set before PyTorch is loaded,
# and for the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

# The same examples in every run, on any machine; a longer hunt: --hypothesis-profile=default.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=50, database=None
)
hypothesis.settings.load_profile("repeatable")

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "a", "film", "river", "is", "was", "long", "warm", "who", "what", "where")


def pytest_collection_finish() -> None:
    """Leave the imported libraries out of every later garbage collection: they are large."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture
def progress(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the packages say of their progress, as ``messages``."""
    caplog.set_level(logging.INFO, "albert_deploy")
    return caplog


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data beside the checkout; users of the project do not have it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder}, which is not here")
    return folder


def build_tiny_tokenizer() -> Tokenizer:
    """BERT's kind of tokenizer over a few words and all ASCII letters, digits and signs."""
    signs = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*SPECIALS, *WORDS, *signs, *(f"##{sign}" for sign in signs)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return tokenizer


@pytest.fixture
def tiny_tokenizer() -> Tokenizer:
    """See ``build_tiny_tokenizer``; ids end below 200."""
    return build_tiny_tokenizer()


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that saves a tiny seeded checkpoint with the tiny tokenizer, in its own folder.

    ``make_checkpoint(task, family, seed=0, tokenizer=True, **config)``: the keywords left over
    are fields of the transformers configuration. Every weight has values that matter, biases
    and layer norms too, so that losing one shows.
    """

    def make(
        task: str = "text-classification",
        family: str = "albert",
        *,
        seed: int = 0,
        tokenizer: bool = True,
        **config: Any,
    ) -> Path:
        import torch
        import transformers

        from albert_deploy.runtime.contract import FAMILIES, TASKS

        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(1)
        folder = tmp_path_factory.mktemp(f"{family}-{task}")
        sizes: dict[str, Any] = {
            "vocab_size": 200,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
        }
        if family == "albert":
            sizes["embedding_size"] = 16
        model_class = getattr(transformers, FAMILIES[family] + TASKS[task].architecture)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            model = model_class(model_class.config_class(**(sizes | config))).eval()
            for weight in model.parameters():
                weight.copy_(torch.randn_like(weight) * 0.1 + (weight == 1).float())
        model.save_pretrained(folder)
        if tokenizer:
            build_tiny_tokenizer().save(str(folder / "tokenizer.json"))
            names = {f"{name.strip('[]').lower()}_token": name for name in SPECIALS}
            settings = {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": (sizes | config)["max_position_embeddings"],
                **names,
            }
            (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return folder

    return make


@pytest.fixture(scope="session")
def make_export(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A function that exports what ``make_checkpoint`` makes of the same words, to a new folder."""

    def make(task: str = "text-classification", family: str = "albert", **words: Any) -> Path:
        out = tmp_path_factory.mktemp(f"exported-{task}") / "out"
        export(str(make_checkpoint(task, family, **words)), ExportConfig(task=task), out=out)
        return out

    return make


@pytest.fixture(scope="session")
def base_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of ALBERT-base's geometry with random weights; nobody changes it.

    Its tokenizer cuts at 64 tokens, so that the edge grid takes seconds for each variant; what
    the files hold, the table of 512 positions included, is that of the real one.
    """
    from albert_deploy.export.samples.random import random_checkpoint

    folder = tmp_path_factory.mktemp("base") / "checkpoint"
    random_checkpoint("base", out=folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"model_max_length": 64}
    path.write_text(json.dumps(settings), encoding="utf-8")
    return folder


def place_of_run(factory: pytest.TempPathFactory, name: str) -> Path:
    """Return a folder that all processes of this test run have in common."""
    base = factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    place.mkdir(exist_ok=True)
    return place


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that fills a folder once in a test run, whichever process asks again.

    ``made_once(name, make)`` calls ``make(folder)`` with a folder that is not there yet, and
    returns it; nobody changes it.
    """
    kept = place_of_run(tmp_path_factory, "made")

    def once(name: str, make: Callable[[Path], object]) -> Path:
        place = kept / name
        with FileLock(f"{place}.lock"):
            if not (kept / f"{name}.done").exists():
                shutil.rmtree(place, ignore_errors=True)
                make(place)
                (kept / f"{name}.done").touch()
        return place

    return once


@pytest.fixture(scope="session", autouse=True)
def exports_are_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Export each checkpoint once in a test run, whichever file or process asks for it again.

    Tracing takes most of the time of most tests. See ``really_exported`` for those that need it
    done twice.
    """
    from albert_deploy.export import step
    from albert_deploy.export.source import Source
    from albert_deploy.runtime.manifest import write_manifest
    from albert_deploy.scripts import release

    kept = place_of_run(tmp_path_factory, "exports")
    real = step.export_into

    def export_into(work: Path, source: Source, task: str) -> dict[str, Any]:
        importlib.import_module("torch")  # Where it is missing, nothing is exported here either.
        if work.stat().st_dev != kept.stat().st_dev:
            return real(work, source, task)  # The test is about the disk.
        told = hashlib.sha256(json.dumps([task, source.sha256, source.config]).encode())
        for path in sorted(source.path.glob("*.json")) + sorted(source.path.glob("spiece.model")):
            told.update(path.name.encode() + path.read_bytes())
        place = kept / told.hexdigest()[:16]
        with FileLock(f"{place}.lock"):
            if not place.is_dir():
                manifest = real(work, source, task)
                shutil.copytree(work, f"{place}.partial")
                Path(f"{place}.partial").rename(place)
                return manifest
        shutil.copytree(place, work, dirs_exist_ok=True)
        made: dict[str, Any] = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        made["source"] |= source.to_json()
        write_manifest(work, made)
        return made

    export_into.really = real  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "export_into", export_into)
        patch.setattr(release, "export_into", export_into)
        yield


@pytest.fixture
def really_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Export whatever a test asks for, although the same was exported before."""
    from albert_deploy.export import step
    from albert_deploy.scripts import release

    for module in (step, release):
        monkeypatch.setattr(module, "export_into", module.export_into.really)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def harden(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that plants activation outliers into a copy of a local ALBERT checkpoint.

    ``harden(checkpoint, factor=300.0, channels=4, seed=0)``: in every layer, as many of the
    value's channels, bias included, are multiplied by the factor, and the columns of the
    attention's output projection that read them are divided by it. The function stays the same
    up to rounding, but one scale for the whole activation now leaves the others few levels.
    """

    def make(checkpoint: Path, *, factor: float = 300.0, channels: int = 4, seed: int = 0) -> Path:
        import torch
        from safetensors.torch import load_file, save_file

        folder = tmp_path_factory.mktemp("hard") / checkpoint.name
        weights = "model.safetensors"
        shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns(weights))
        tensors = load_file(checkpoint / weights)
        generator = torch.Generator().manual_seed(seed)
        values = [name for name in tensors if name.endswith("attention.value.weight")]
        assert values, f"{checkpoint} is no ALBERT checkpoint"
        for name in values:
            stem = name.removesuffix("value.weight")
            chosen = torch.randperm(len(tensors[name]), generator=generator)[:channels]
            tensors[name][chosen] *= factor
            tensors[f"{stem}value.bias"][chosen] *= factor
            tensors[f"{stem}dense.weight"][:, chosen] /= factor
        save_file(tensors, folder / weights, metadata={"format": "pt"})
        return folder

    return make


# name -> task, family and configuration: a layer with twelve uses; two groups of two inner layers
# with two uses each; layers of their own; a table that is looked up and multiplied.
GRAPHS: dict[str, tuple[str, str, dict[str, int]]] = {
    "albert": ("text-classification", "albert", {}),
    "grouped": (
        "text-classification",
        "albert",
        {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
    ),
    "bert": ("text-classification", "bert", {"num_hidden_layers": 2}),
    "pretraining": ("pretraining", "albert", PRETRAINING),
}


@pytest.fixture(scope="session")
def graph_of(make_export: Callable[..., Path]) -> Callable[[str], Path]:
    """A function that returns the float32 file of one of ``GRAPHS``; load it, do not change it."""

    @cache
    def make(name: str) -> Path:
        task, family, config = GRAPHS[name]
        return make_export(task, family, **config) / VARIANTS["fp32"].file

    return make
