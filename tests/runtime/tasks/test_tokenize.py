from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.tasks.tokenize import Window, encode, load_tokenizer, stack, windows

CONTEXT = "The river was long and warm. A film of the river is in  Paris, not in London!"
QUESTION = "  What is the film of?"


def reference(tokenizer: Tokenizer) -> Any:
    """transformers' own encoding over the same tokenizer; it wants a copy, as it changes it."""
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.to_str()), pad_token="[PAD]"
    )


@pytest.fixture(scope="module")
def albert(shared: Path) -> Tokenizer:
    tokenizer: Tokenizer = load_tokenizer(shared / "data" / "albert-tokenizer")
    return tokenizer


@pytest.fixture(scope="module")
def albert_reference(shared: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(shared / "data" / "albert-tokenizer")


@pytest.fixture(scope="module")
def squad_questions(shared: Path) -> list[tuple[str, str]]:
    path = shared / "data" / "squad" / "dev-v1.1.json"
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    pairs = [
        (question["question"], paragraph["context"])
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    # Some of these questions begin with a space, and the others come from one article.
    return pairs[:200] + [pair for pair in pairs if pair[0].startswith(" ")][:10]


def assert_same(feeds: dict[str, Any], wanted: Any) -> None:
    for name, row in feeds.items():
        assert row.dtype == np.int64
        assert row.shape == (1, len(wanted[name]))
        assert row[0].tolist() == wanted[name], name


def assert_same_windows(found: list[Window], wanted: Any) -> None:
    assert len(found) == len(wanted["input_ids"])
    for index, window in enumerate(found):
        assert_same(window.feeds, {name: wanted[name][index] for name in window.feeds})
        parts = wanted.sequence_ids(index)
        assert window.is_context.tolist() == [part == 1 for part in parts]
        offsets = [
            pair if part == 1 else (0, 0)
            for part, pair in zip(parts, wanted["offset_mapping"][index], strict=True)
        ]
        assert window.offsets.tolist() == [list(pair) for pair in offsets]


def reference_windows(tokenizer: Any, question: str, context: str, length: int, stride: int) -> Any:
    return tokenizer(
        question.lstrip(),
        context,
        truncation="only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )


def test_encode_writes_the_template(tiny_tokenizer: Tokenizer) -> None:
    feeds = encode(tiny_tokenizer, "the film", "was long", max_length=7)
    ids = [tiny_tokenizer.token_to_id(piece) for piece in ("[CLS]", "the", "film", "[SEP]")]
    ids += [tiny_tokenizer.token_to_id(piece) for piece in ("was", "long", "[SEP]")]
    assert list(feeds) == ["input_ids", "attention_mask", "token_type_ids"]
    assert feeds["input_ids"].tolist() == [ids]
    assert feeds["attention_mask"].tolist() == [[1] * 7]
    assert feeds["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1]]


def test_encode_cuts_as_transformers_does(tiny_tokenizer: Tokenizer) -> None:
    tokenizer = reference(tiny_tokenizer)
    chance = random.Random(0)
    for _ in range(300):
        text = " ".join(
            chance.choices(["film", "long", "xyz", "[MASK]", "é"], k=chance.randint(0, 9))
        )
        pair = chance.choice([None, "", "warm " * chance.randint(1, 9)])
        length = chance.randint(4, 16)
        wanted = tokenizer(
            text, pair, truncation=True, max_length=length, return_token_type_ids=True
        )
        assert_same(encode(tiny_tokenizer, text, pair, max_length=length, truncate=True), wanted)


def test_encode_equals_transformers_with_the_real_vocabulary(
    albert: Tokenizer, albert_reference: Any, squad_questions: list[tuple[str, str]]
) -> None:
    for index, (question, context) in enumerate(squad_questions):
        length = 20 + index % 200
        for text, pair in ((context, None), (context, question), (question, context)):
            wanted = albert_reference(
                text, pair, truncation=True, max_length=length, return_token_type_ids=True
            )
            found = encode(albert, text, pair, max_length=length, truncate=True)
            assert_same(found, wanted)


def test_encode_names_the_row_that_is_too_long(tiny_tokenizer: Tokenizer) -> None:
    assert encode(tiny_tokenizer, "film " * 5, max_length=7)["input_ids"].shape == (1, 7)
    with pytest.raises(InputError, match=r"^row 3 has 8 tokens, the limit is 7; .*`truncate=True`"):
        encode(tiny_tokenizer, "film " * 6, max_length=7, row="row 3")


def test_encode_refuses_what_it_cannot_use(tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="use at least 4"):
        encode(tiny_tokenizer, "film", "long", max_length=3, truncate=True)
    with pytest.raises(InputError, match="row 3"):
        encode(tiny_tokenizer, "lone \ud800 surrogate", max_length=9, row="row 3")


def test_encode_leaves_the_tokenizer_as_it_was(tiny_tokenizer: Tokenizer) -> None:
    before = tiny_tokenizer.to_str()
    encode(tiny_tokenizer, "film " * 9, "long " * 9, max_length=9, truncate=True)
    windows(tiny_tokenizer, QUESTION, CONTEXT, max_length=20, stride=4, max_query_length=9)
    assert tiny_tokenizer.to_str() == before


def test_token_types_do_not_depend_on_the_file(tiny_tokenizer: Tokenizer) -> None:
    right = encode(tiny_tokenizer, "the film [SEP]", "was long", max_length=20)
    content = json.loads(tiny_tokenizer.to_str())
    for piece in content["post_processor"]["pair"]:
        next(iter(piece.values()))["type_id"] = 0
    without = Tokenizer.from_str(json.dumps(content))
    assert sum(without.encode("the film", "was long").type_ids) == 0
    found = encode(without, "the film [SEP]", "was long", max_length=20)
    assert found["token_type_ids"].tolist() == right["token_type_ids"].tolist()
    assert found["token_type_ids"].sum() == 3


def test_load_tokenizer_drops_padding_and_truncation(
    tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tiny_tokenizer.enable_padding(length=32)
    tiny_tokenizer.enable_truncation(4)
    tiny_tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert encode(loaded, "film " * 8, max_length=99)["input_ids"].shape == (1, 10)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"version": "1.0", "mod', b"\xff\xfe"])
def test_load_tokenizer_refuses_a_corrupt_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read .*tokenizer\.json.*export"):
        load_tokenizer(tmp_path)


def test_load_tokenizer_refuses_a_missing_file_or_template(
    tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"no tokenizer\.json; export"):
        load_tokenizer(tmp_path)
    content = json.loads(tiny_tokenizer.to_str()) | {"post_processor": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="special tokens"):
        load_tokenizer(tmp_path)


def test_stack_pads_on_the_right(tiny_tokenizer: Tokenizer) -> None:
    rows = [encode(tiny_tokenizer, text, max_length=9) for text in ("film", "the long film")]
    batch = stack(rows, pad_id=9)
    assert batch["input_ids"][0].tolist() == [*rows[0]["input_ids"][0].tolist(), 9, 9]
    assert batch["input_ids"][1].tolist() == rows[1]["input_ids"][0].tolist()
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert all(array.dtype == np.int64 and array.shape == (2, 5) for array in batch.values())
    with pytest.raises(InputError, match="no rows"):
        stack([], pad_id=0)


def test_windows_equal_transformers(tiny_tokenizer: Tokenizer) -> None:
    tokenizer = reference(tiny_tokenizer)
    for length in range(15, 80):
        for stride in (0, 1, 4):
            found = windows(
                tiny_tokenizer,
                QUESTION,
                CONTEXT,
                max_length=length,
                stride=stride,
                max_query_length=64,
            )
            wanted = reference_windows(tokenizer, QUESTION, CONTEXT, length, stride)
            assert_same_windows(found, wanted)


def test_windows_equal_transformers_with_the_real_vocabulary(
    albert: Tokenizer, albert_reference: Any, squad_questions: list[tuple[str, str]]
) -> None:
    counts = set()
    for length, stride in ((96, 32), (384, 128)):
        for question, context in squad_questions:
            found = windows(
                albert, question, context, max_length=length, stride=stride, max_query_length=64
            )
            wanted = reference_windows(albert_reference, question, context, length, stride)
            assert_same_windows(found, wanted)
            counts.add(len(found))
    assert len(counts) > 2


def test_windows_cut_a_long_question(tiny_tokenizer: Tokenizer) -> None:
    lengths: dict[str, Any] = {"max_length": 20, "stride": 4}
    cut = windows(tiny_tokenizer, "who " * 30, CONTEXT, max_query_length=5, **lengths)
    short = windows(tiny_tokenizer, "who " * 5, CONTEXT, max_query_length=64, **lengths)
    assert len(cut) == len(short) > 1
    for one, other in zip(cut, short, strict=True):
        assert one.feeds["input_ids"].tolist() == other.feeds["input_ids"].tolist()
        assert one.feeds["token_type_ids"].tolist() == other.feeds["token_type_ids"].tolist()
        assert one.offsets.tolist() == other.offsets.tolist()


@pytest.mark.parametrize(
    ("question", "context", "changes", "message"),
    [
        ("", CONTEXT, {}, "is empty"),
        (" \n", CONTEXT, {}, "is empty"),
        ("\x00", CONTEXT, {}, "no question"),
        ("who", "", {}, "no context"),
        ("who", " \t ", {}, "no context"),
        ("who", "\ud800", {}, "Unicode"),
        ("who", CONTEXT, {"max_length": 4}, "leaves 0 of 4 tokens"),
        ("who", CONTEXT, {"stride": 16}, "leaves 16 of 20 tokens"),
        ("who", CONTEXT, {"stride": -1}, "stride -1"),
        ("who", CONTEXT, {"max_query_length": 0}, "max_query_length is 0"),
    ],
)
def test_windows_refuse_odd_input(
    tiny_tokenizer: Tokenizer, question: str, context: str, changes: dict[str, int], message: str
) -> None:
    lengths: dict[str, Any] = {"max_length": 20, "stride": 4, "max_query_length": 9} | changes
    with pytest.raises(InputError, match=message):
        windows(tiny_tokenizer, question, context, **lengths)


def test_runtime_imports_no_torch() -> None:
    code = "import sys, albert_deploy.runtime.tasks.tokenize; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "tokenizers" in modules
    assert not {"torch", "transformers"} & set(modules)
