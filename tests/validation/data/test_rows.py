"""Every kind of row becomes the feeds of its task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.data.rows import (
    ChoiceRow,
    ClassificationRow,
    Example,
    PlainRow,
    QuestionRow,
    Row,
    RowsConfig,
    TokensRow,
    encode_rows,
)

CONTRACT: dict[str, Any] = {
    "inputs": [{"name": "input_ids", "axes": ["batch", "sequence"]}],
    "max_length": 24,
    "pad_token_id": 0,
}
CHOICES = CONTRACT | {"inputs": [{"name": "input_ids", "axes": ["batch", "choices", "sequence"]}]}


def one(
    example: Example,
    tokenizer: Tokenizer,
    contract: dict[str, Any] = CONTRACT,
    config: RowsConfig | None = None,
) -> Row:
    return next(encode_rows([example], contract, tokenizer, config or RowsConfig()))


def pieces(tokenizer: Tokenizer, ids: Any) -> list[str | None]:
    return [tokenizer.id_to_token(int(i)) for i in ids]


def test_a_pair_has_two_segments(tiny_tokenizer: Tokenizer) -> None:
    row = one(ClassificationRow(id="3", text="a film", pair="the river", label=0), tiny_tokenizer)
    assert row.id == "3"
    assert row.feeds[0]["input_ids"].shape == (1, 7)
    assert row.feeds[0]["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    order = PlainRow(id="0", text="a film", following="the river", label=1)
    same = one(order, tiny_tokenizer).feeds[0]
    assert all((same[name] == row.feeds[0][name]).all() for name in same)


def test_a_long_context_has_windows(tiny_tokenizer: Tokenizer) -> None:
    question = QuestionRow(id="q", question="who", context="the river was long " * 20, answers=())
    row = one(question, tiny_tokenizer)
    assert row.windows is not None
    assert len(row.feeds) == len(row.windows) > 3
    assert max(feeds["input_ids"].shape[1] for feeds in row.feeds) == 24
    starts = [window.first for window in row.windows]
    assert starts == [14 * i for i in range(len(starts))]  # 20 of context, 6 of them shared


def test_choices_are_cut_from_the_context_first(tiny_tokenizer: Tokenizer) -> None:
    example = ChoiceRow(
        id="c",
        context="the river was long " * 20,
        question="what is",
        choices=("a film", "the warm river"),
        label=1,
        group="high",
    )
    row = one(example, tiny_tokenizer, CHOICES)
    ids = row.feeds[0]["input_ids"]
    assert ids.shape == (1, 2, 24)
    for choice, end in ((0, ["what", "is", "a", "film"]), (1, ["is", "the", "warm", "river"])):
        text = pieces(tiny_tokenizer, ids[0, choice])
        assert text[-5:] == [*end, "[SEP]"]
        assert text[1:3] == ["the", "river"]
    assert row.feeds[0]["attention_mask"].all()
    short = one(replace(example, context="a film"), tiny_tokenizer, CHOICES).feeds[0]
    assert short["input_ids"].shape == (1, 2, 10)
    assert short["attention_mask"].sum(axis=-1).tolist() == [[9, 10]]


def test_a_long_question_keeps_the_choice(tiny_tokenizer: Tokenizer) -> None:
    example = ChoiceRow(
        id="c", context="a film", question="who " * 50, choices=("warm",), label=0, group="high"
    )
    row = one(example, tiny_tokenizer, CHOICES)
    text = pieces(tiny_tokenizer, row.feeds[0]["input_ids"][0, 0])
    assert text == ["[CLS]", "a", "film", "[SEP]", *["who"] * 11, "warm", "[SEP]"]
    with pytest.raises(InputError, match="question c has no context"):
        one(replace(example, context=" "), tiny_tokenizer, CHOICES)


def test_the_first_token_carries_a_words_tag(tiny_tokenizer: Tokenizer) -> None:
    words = ("the", "xyz", "\u200b", "film")  # three pieces; none at all
    example = TokensRow(id="t", words=words, tags=("O",) * 4)
    row = one(example, tiny_tokenizer)
    text = pieces(tiny_tokenizer, row.feeds[0]["input_ids"][0])
    assert text == ["[CLS]", "the", "x", "##y", "##z", "film", "[SEP]"]
    assert row.marks is not None
    assert row.marks.tolist() == [1, 2, -1, 5]
    tight = CONTRACT | {"max_length": 4}
    with pytest.raises(InputError, match="sentence t has 7 tokens, the limit is 4"):
        one(example, tiny_tokenizer, tight)
    cut = one(example, tiny_tokenizer, tight, RowsConfig(truncate=True))
    assert cut.marks is not None
    assert cut.marks.tolist() == [1, 2, -1, -1]
    assert cut.feeds[0]["input_ids"].shape == (1, 4)


def test_masked_tokens_are_the_same_each_time_and_never_special(tiny_tokenizer: Tokenizer) -> None:
    example = PlainRow(id="7", text="the film was long " * 5, following=None)
    row, again = one(example, tiny_tokenizer), one(example, tiny_tokenizer)
    other = one(example, tiny_tokenizer, config=RowsConfig(seed=1))
    mask = tiny_tokenizer.token_to_id("[MASK]")
    ids, plain = row.feeds[0]["input_ids"][0], tiny_tokenizer.encode(example.text).ids
    assert row.marks is not None
    assert row.wanted is not None
    assert len(row.marks) == round(0.15 * (len(plain) - 2))
    assert (ids[row.marks] == mask).all()
    assert (np.array(plain)[row.marks] == row.wanted).all()
    assert np.count_nonzero(ids != plain) == len(row.marks)
    assert ids[0] == plain[0]
    assert ids[-1] == plain[-1]
    assert (again.feeds[0]["input_ids"] == row.feeds[0]["input_ids"]).all()
    assert other.marks is not None
    assert other.marks.tolist() != row.marks.tolist()
    short = one(PlainRow(id="0", text="film", following=None), tiny_tokenizer)
    assert short.feeds[0]["input_ids"].tolist() == [[2, mask, 3]]


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    from tokenizers import models, processors

    tokenizer = Tokenizer(models.WordLevel({"[CLS]": 0, "a": 1}, unk_token="a"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 0)]
    )
    with pytest.raises(InputError, match="no token can be hidden"):
        one(PlainRow(id="0", text="a", following=None), tokenizer)


@pytest.mark.parametrize("change", [{"stride": -1}, {"max_query_length": 0}, {"masked": 0.0}])
def test_values_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="use"):
        RowsConfig(**change)
