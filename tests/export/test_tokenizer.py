"""A tokenizer.json made from a vocabulary gives the ids that the model was trained with."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from albert_deploy.export.tokenizer import write_tokenizer
from albert_deploy.runtime.errors import InputError, MachineError

Checkpoints = Callable[..., Path]

ALBERT = {
    "model_type": "albert",
    "vocab_size": 30_000,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
BERT = ALBERT | {"model_type": "bert", "vocab_size": 200, "max_position_embeddings": 64}
ODD_TEXTS = [
    "",
    " ",
    "On May 21, 2013, 1,234 owners (of $5.00, 3,) met.",
    "Café naïve ``quoted'' \u201ctypographic\u201d \u2013 a dash… £3 €4 5%",
    "  two  spaces\tand\na line  ",
    "a [MASK] in the [MASK] middle .",
    "中文 and \U0001f642 and e\u0301",
    "x" * 300,
]


def real_texts(shared: Path) -> list[str]:
    lines = (shared / "data/glue/SST-2/dev.tsv").read_text(encoding="utf-8").splitlines()
    articles = json.loads((shared / "data/squad/dev-v1.1.json").read_text(encoding="utf-8"))["data"]
    contexts = [p["context"] for article in articles for p in article["paragraphs"][:4]]
    return [*(line.split("\t")[0] for line in lines[1:]), *contexts, *ODD_TEXTS]


def folder_with(path: Path, config: dict[str, Any], **files: str) -> Path:
    path.mkdir()
    for name, content in {"config.json": json.dumps(config), **files}.items():
        (path / name).write_text(content, encoding="utf-8")
    return path


def compare(ours: Tokenizer, reference: Tokenizer, texts: list[str]) -> None:
    different = [t for t in texts if ours.encode(t).ids != reference.encode(t).ids]
    assert not different, f"{len(different)} of {len(texts)} differ, such as {different[0]!r}"
    pair = ours.encode(texts[0], texts[1])
    wanted = reference.encode(texts[0], texts[1])
    assert (pair.ids, pair.type_ids) == (wanted.ids, wanted.type_ids)


@pytest.fixture
def spiece_only(shared: Path, tmp_path: Path) -> Path:
    folder = folder_with(tmp_path / "checkpoint", ALBERT)
    shutil.copy(shared / "data/albert-tokenizer/spiece.model", folder)
    return folder


def test_a_sentencepiece_model_gives_the_published_ids(
    shared: Path, spiece_only: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert write_tokenizer(spiece_only, out, ALBERT) == {"max_length": 512, "pad_token_id": 0}
    ours = Tokenizer.from_file(str(out / "tokenizer.json"))
    reference = Tokenizer.from_file(str(shared / "data/albert-tokenizer/tokenizer.json"))
    compare(ours, reference, real_texts(shared))
    names = sorted(path.name for path in out.iterdir())
    assert names == ["spiece.model", "tokenizer.json", "tokenizer_config.json"]


def test_transformers_reads_the_converted_tokenizer_alike(
    shared: Path, spiece_only: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(spiece_only, out, ALBERT)
    shutil.copy(spiece_only / "config.json", out)
    theirs = AutoTokenizer.from_pretrained(out, local_files_only=True)
    ours = Tokenizer.from_file(str(out / "tokenizer.json"))
    for text in real_texts(shared)[-60:]:
        assert theirs(text)["input_ids"] == ours.encode(text).ids


@pytest.mark.parametrize("lower", [True, False])
def test_a_word_list_gives_the_ids_of_wordpiece(
    tiny_tokenizer: Tokenizer, tmp_path: Path, lower: bool
) -> None:
    vocabulary = tiny_tokenizer.get_vocab()
    words = "\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n"
    files = {"vocab.txt": words, "tokenizer_config.json": json.dumps({"do_lower_case": lower})}
    source, out = folder_with(tmp_path / "checkpoint", BERT, **files), tmp_path / "out"
    out.mkdir()
    assert write_tokenizer(source, out, BERT) == {"max_length": 64, "pad_token_id": 0}
    ours = Tokenizer.from_file(str(out / "tokenizer.json"))
    reference = BertWordPieceTokenizer(str(source / "vocab.txt"), lowercase=lower)
    texts = ["The film was LONG.", "who? what's the river", *ODD_TEXTS]
    compare(ours, reference._tokenizer, texts)
    settings = json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["do_lower_case"] is lower


def test_a_tokenizer_is_copied_byte_for_byte(make_checkpoint: Checkpoints, tmp_path: Path) -> None:
    source = make_checkpoint()
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    write_tokenizer(source, tmp_path, config)
    assert (tmp_path / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("limit", [16, 64, 1000, 10**30, None])
def test_the_shorter_of_both_limits_holds(
    make_checkpoint: Checkpoints, tmp_path: Path, limit: int | None
) -> None:
    source = Path(shutil.copytree(make_checkpoint(), tmp_path / "checkpoint"))
    (source / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": limit}), encoding="utf-8"
    )
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    out = tmp_path / "out"
    out.mkdir()
    assert write_tokenizer(source, out, config)["max_length"] == min(limit or 64, 64)


@pytest.mark.parametrize("content", [b"", b"garbage" * 50])
def test_a_damaged_sentencepiece_model_is_refused(tmp_path: Path, content: bytes) -> None:
    source, out = folder_with(tmp_path / "checkpoint", ALBERT), tmp_path / "out"
    (source / "spiece.model").write_bytes(content)
    out.mkdir()
    with pytest.raises(InputError, match=r"spiece.model is damaged .* copy it again"):
        write_tokenizer(source, out, ALBERT)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe\x00", "valid UTF-8"),
        (b"", r"vocab.txt lacks .*\[UNK\]"),
        (b"[PAD]\n[CLS]\n[SEP]\n[MASK]\nfilm\n", r"vocab.txt lacks \[UNK\]"),
    ],
)
def test_a_word_list_that_is_none_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    source, out = folder_with(tmp_path / "checkpoint", BERT), tmp_path / "out"
    (source / "vocab.txt").write_bytes(content)
    out.mkdir()
    with pytest.raises(InputError, match=rf"{reason}.*; save the fast tokenizer there"):
        write_tokenizer(source, out, BERT)


def test_settings_are_written_so_that_other_tools_read_the_same(
    make_checkpoint: Checkpoints, tmp_path: Path
) -> None:
    source, out = make_checkpoint(), tmp_path / "out"
    out.mkdir()
    settings = {
        "tokenizer_class": "TokenizersBackend",
        "model_max_length": 10**30,
        "extra_special_tokens": ["[X]"],
        "backend": "tokenizers",
        "cls_token": "[CLS]",
    }
    (source / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    assert write_tokenizer(source, out, config)["max_length"] == 64
    assert json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8")) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 64,
        "cls_token": "[CLS]",
        "model_input_names": ["input_ids", "attention_mask", "token_type_ids"],
    }
    assert (out / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("limit", [-1, "many", [1]])
def test_a_limit_that_is_no_length_is_refused(
    limit: object, make_checkpoint: Checkpoints, tmp_path: Path
) -> None:
    source = make_checkpoint()
    (source / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    out = tmp_path / "out"
    out.mkdir()
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    with pytest.raises(InputError, match=r"model_max_length|tokenizer_config\.json"):
        write_tokenizer(source, out, config)


def test_packages_that_do_not_fit_are_named(
    spiece_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(MachineError, match="pip install --upgrade protobuf"):
        write_tokenizer(spiece_only, out, ALBERT)
