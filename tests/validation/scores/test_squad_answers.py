from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.tasks.tokenize import Window, load_tokenizer, windows
from albert_deploy.validation.scores.squad_answers import (
    best_answers,
    max_context_tokens,
    null_score,
)

Logits = npt.NDArray[np.float64]

CONTEXT = "The river was long and warm. A film of the river is in  Paris, not in London!"


def two_windows(tokenizer: Tokenizer) -> tuple[list[Window], Logits, Logits]:
    found = windows(tokenizer, "who", CONTEXT, max_length=16, stride=4, max_query_length=9)
    width = 3 + max(len(window.offsets) for window in found)  # as a padded batch has it
    return found, np.zeros((len(found), width)), np.zeros((len(found), width))


def best_answer(
    found: list[Window], starts: Any, ends: Any, **limits: int
) -> tuple[str, int, int, float]:
    best = best_answers(found, starts, ends, **limits)[0]
    return best.text, best.start, best.end, best.score


def at(found: list[Window], index: int, char: int) -> int:
    """Position of the token of a window that begins at a character of the context."""
    window = found[index]
    return int(np.flatnonzero(window.is_context & (window.offsets[:, 0] == char))[0])


def test_best_answer_takes_the_best_window(tiny_tokenizer: Tokenizer) -> None:
    found, starts, ends = two_windows(tiny_tokenizer)
    first, last = CONTEXT.index("river"), CONTEXT.index("long")
    starts[0, at(found, 0, first)] = 3
    ends[0, at(found, 0, last)] = 3
    ends[0, at(found, 0, 0)] = 9  # before the best start: 9 + 3 may not pair
    starts[1, 0] = ends[1, 0] = 50  # [CLS], [SEP] and padding are no answer
    starts[1, 2] = ends[1, 2] = 50
    starts[1, -1] = ends[1, -1] = 50
    limits = {"max_answer_tokens": 5, "n_best": 20}
    answer = best_answer(found, starts, ends, **limits)
    assert answer == ("The", 0, 3, 9.0)
    ends[0, at(found, 0, 0)] = 0
    assert best_answer(found, starts, ends, **limits) == ("river was long", 4, 18, 6.0)
    assert best_answer(found, list(starts), list(ends), **limits)[0] == "river was long"
    starts[1, 5] = ends[1, 5] = 3.5
    begin, end = found[1].offsets[5].tolist()
    assert best_answer(found, starts, ends, **limits) == (CONTEXT[begin:end], begin, end, 7.0)


def test_best_answer_keeps_the_length_limit(tiny_tokenizer: Tokenizer) -> None:
    found, starts, ends = two_windows(tiny_tokenizer)
    starts[0, at(found, 0, 0)] = 5
    ends[0, at(found, 0, CONTEXT.index("long"))] = 5
    whole = best_answer(found, starts, ends, max_answer_tokens=4, n_best=3)
    assert whole[0] == "The river was long"
    cut = best_answer(found, starts, ends, max_answer_tokens=3, n_best=3)
    assert cut[3] == 5.0
    assert len(cut[0].split()) <= 3


def test_best_answer_falls_back_when_no_pair_is_valid(tiny_tokenizer: Tokenizer) -> None:
    found, starts, ends = two_windows(tiny_tokenizer)
    found, starts, ends = found[:1], starts[:1], ends[:1]
    starts[0, at(found, 0, CONTEXT.index("long"))] = 5
    ends[0, at(found, 0, 0)] = 4
    # Only ("long", "The") is tried at first, and it ends before it starts.
    answer = best_answer(found, starts, ends, max_answer_tokens=3, n_best=1)
    assert answer[3] == 5.0
    assert answer[0].startswith("long")


def test_best_answer_equals_a_search_of_all_spans(tiny_tokenizer: Tokenizer) -> None:
    found, starts, ends = two_windows(tiny_tokenizer)
    chance = np.random.default_rng(0)
    for _ in range(20):
        starts, ends = chance.normal(size=starts.shape), chance.normal(size=ends.shape)
        spans = [
            (starts[index, i] + ends[index, j], window.offsets[i, 0], window.offsets[j, 1])
            for index, window in enumerate(found)
            for i in np.flatnonzero(window.is_context)
            for j in np.flatnonzero(window.is_context)
            if i <= j < i + 6
        ]
        score, begin, end = max(spans)
        answer = best_answer(found, starts, ends, max_answer_tokens=6, n_best=99)
        assert answer[:3] == (CONTEXT[begin:end], begin, end)
        assert answer[3] == pytest.approx(score)


def test_best_answer_cuts_the_original_text(shared: Path) -> None:
    context = "  Sometimes Dvořák's  ½-opera  played in Ĳmuiden. "
    tokenizer = load_tokenizer(shared / "data" / "albert-tokenizer")
    found = windows(tokenizer, "who?", context, max_length=60, stride=8, max_query_length=9)
    starts, ends = np.zeros((1, 60)), np.zeros((1, 60))
    begin, stop = context.index("Dvořák"), context.index(" played") - 1
    inside = found[0].is_context & (found[0].offsets[:, 0] >= begin)
    inside &= found[0].offsets[:, 1] <= stop
    starts[0, np.flatnonzero(inside)[0]] = ends[0, np.flatnonzero(inside)[-1]] = 5
    answer = best_answer(found, starts, ends, max_answer_tokens=30, n_best=5)
    assert answer == ("Dvořák's  ½-opera", begin, stop, 10.0)


def test_best_answer_refuses_logits_that_do_not_fit(tiny_tokenizer: Tokenizer) -> None:
    found, starts, ends = two_windows(tiny_tokenizer)
    limits = {"max_answer_tokens": 5, "n_best": 20}
    with pytest.raises(InputError, match="windows"):
        best_answer(found, starts[:1], ends, **limits)
    with pytest.raises(InputError, match="windows"):
        best_answer([], [], [], **limits)
    with pytest.raises(InputError, match="one logit per token"):
        best_answer(found, starts, ends[:, :5], **limits)
    with pytest.raises(InputError, match="n_best 0"):
        best_answer(found, starts, ends, max_answer_tokens=5, n_best=0)
    starts[0, at(found, 0, 4)] = np.nan
    with pytest.raises(InputError, match="NaN"):
        best_answer(found, starts, ends, **limits)


def by_hand(*offsets: tuple[int, int]) -> Window:
    """A window of context tokens alone, with offsets that a tokenizer seldom gives."""
    ids = np.ones((1, len(offsets)), dtype=np.int64)
    return Window(
        feeds={"input_ids": ids, "attention_mask": ids, "token_type_ids": ids},
        offsets=np.array(offsets),
        is_context=np.ones(len(offsets), dtype=bool),
        context="½ cup",
    )


def test_best_answer_never_ends_before_it_starts_inside_one_character() -> None:
    window = by_hand((0, 1), (0, 1), (0, 1), (2, 5))  # 1, the stroke and 2 of one half
    starts, ends = np.array([[0.0, 0, 3, 0]]), np.array([[0.0, 3, 0, 1]])
    answer = best_answer([window], starts, ends, max_answer_tokens=4, n_best=4)
    assert answer == ("½ cup", 0, 5, 4.0)


def test_best_answer_skips_tokens_that_cover_nothing() -> None:
    logits = np.array([[9.0, 0.0]])
    limits = {"max_answer_tokens": 1, "n_best": 2}
    assert best_answer([by_hand((0, 0), (2, 5))], logits, logits, **limits)[0] == "cup"
    with pytest.raises(InputError, match="no token"):
        best_answer([by_hand((0, 0), (2, 2))], logits, logits, **limits)


def test_best_answers_are_ranked_over_all_windows(tiny_tokenizer: Tokenizer) -> None:
    found, starts, ends = two_windows(tiny_tokenizer)
    starts[0, at(found, 0, 0)], ends[0, at(found, 0, CONTEXT.index("long"))] = 2, 2
    film = at(found, 1, CONTEXT.index("film"))
    starts[1, film], ends[1, film] = 3, 4
    answers = best_answers(found, starts, ends, max_answer_tokens=5, n_best=6)
    assert len(answers) == 6
    assert (answers[0].text, answers[0].start_logit, answers[0].end_logit) == ("film", 3, 4)
    assert answers[0].score == 7
    scores = [answer.score for answer in answers]
    assert scores == sorted(scores, reverse=True)
    assert all(answer.text == CONTEXT[answer.start : answer.end] for answer in answers)
    first = best_answer(found, starts, ends, max_answer_tokens=5, n_best=6)
    assert first == ("film", answers[0].start, answers[0].end, 7.0)


def test_max_context_is_that_of_berts_script(tiny_tokenizer: Tokenizer) -> None:
    found = windows(tiny_tokenizer, "who", CONTEXT, max_length=12, stride=4, max_query_length=9)
    owners = max_context_tokens(found)
    spans = [(w.first, int(w.is_context.sum())) for w in found]
    total = spans[-1][0] + spans[-1][1]
    for token in range(total):
        # min(left context, right context) + 0.01 * length, the first of equal ones.
        scores = [
            min(token - first, first + count - 1 - token) + 0.01 * count
            if first <= token < first + count
            else -1.0
            for first, count in spans
        ]
        best = scores.index(max(scores))
        here = [
            index
            for index, (first, count) in enumerate(spans)
            if first <= token < first + count and owners[index][token - first]
        ]
        assert here == [best]


def test_max_context_changes_the_answer_where_windows_overlap(tiny_tokenizer: Tokenizer) -> None:
    found, starts, ends = two_windows(tiny_tokenizer)
    last = int(np.flatnonzero(found[0].is_context)[-1])  # The second window shows what follows.
    middle = int(np.flatnonzero(max_context_tokens(found)[1])[0])
    other = int(np.flatnonzero(found[1].is_context)[middle])
    starts[0, last] = ends[0, last] = 5
    starts[1, other] = ends[1, other] = 4
    limits = {"max_answer_tokens": 3, "n_best": 20}
    assert best_answers(found, starts, ends, **limits)[0].score == 10
    strict = best_answers(found, starts, ends, max_context=True, **limits)[0]
    begin, end = found[1].offsets[other].tolist()
    assert (strict.text, strict.score) == (CONTEXT[begin:end], 8)


def test_the_null_score_is_the_least_over_the_windows(tiny_tokenizer: Tokenizer) -> None:
    found, starts, ends = two_windows(tiny_tokenizer)
    starts[:, 0], ends[:, 0] = (3, 1, 5, 4), (1, 2, 0, 0)
    assert null_score(found, starts, ends) == 3.0
    ends[1, 0] = np.nan
    with pytest.raises(InputError, match="CLS"):
        null_score(found, starts, ends)
    with pytest.raises(InputError, match="windows"):
        null_score(found, starts[:1], ends)
