"""What `load` answers, held against transformers on the same checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from same_answers import (
    CONTEXT,
    Deployed,
    assert_same,
    both_heads,
    chosen,
    deployments,
    pipeline,
    read,
    source,
)
from tokenizers import Tokenizer

from albert_deploy.export.step import ExportConfig, export
from albert_deploy.runtime import load
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import read_manifest, write_manifest
from albert_deploy.runtime.options import Options
from albert_deploy.runtime.tasks.question_answering import _answers
from albert_deploy.runtime.tasks.tokenize import windows

TEXTS = ("the film was long", "a warm river, who is it?", "What IS the film é", "x", "the the")


@pytest.fixture(scope="module")
def deployed(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Deployed:
    """Checkpoint and deployment directory of a task."""
    return deployments(make_checkpoint, tmp_path_factory)


def test_text_classification_is_that_of_transformers(deployed: Deployed) -> None:
    checkpoint, out = deployed("text-classification")
    model, reference = load(out), pipeline("text-classification", checkpoint)
    for text in TEXTS:
        assert_same(model(text), reference(text))
    batch = list(TEXTS)
    assert_same(model(batch), reference(batch))
    assert_same(model(batch[:1]), reference(batch[:1]))
    assert_same(list(model(iter(batch))), list(reference(text for text in batch)))
    for options in ({"top_k": None}, {"top_k": 1}, {"top_k": 5}):
        assert_same(model(TEXTS[0], **options), reference(TEXTS[0], **options))
        assert_same(model(batch, **options), reference(batch, **options))
    for name in ("sigmoid", "softmax", "none"):
        assert_same(model(batch, function_to_apply=name), reference(batch, function_to_apply=name))
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    # The tiny tokenizer's own settings leave token types out.
    typed = pair | {"return_token_type_ids": True}
    assert_same(model(pair), reference(typed))
    assert_same(model([pair, pair]), reference([typed, typed]))
    assert model((TEXTS[0], TEXTS[1])) == model(pair)
    keyword = {"text_pair": TEXTS[1]}
    typed_text = reference(TEXTS[0], **keyword, return_token_type_ids=True)
    assert_same(model(TEXTS[0], **keyword), typed_text)
    assert model(text=TEXTS[0], text_pair=TEXTS[1])["score"] != model(TEXTS[0])[0]["score"]
    long = " ".join(TEXTS * 9)
    cut = model(long, truncation=True)
    assert_same(cut, reference(long, truncation=True))
    assert_same(
        model(long, truncation=True, max_length=12), reference(long, truncation=True, max_length=12)
    )
    with pytest.raises(InputError, match=r"text 1 has .* the limit is 64"):
        model(long)


@pytest.mark.parametrize("labels", [pytest.param(1, marks=pytest.mark.medium), 2])
@pytest.mark.parametrize("problem", [None, "regression", "multi_label_classification"])
def test_scores_follow_the_problem(
    deployed: Deployed, tmp_path: Path, labels: int, problem: str | None
) -> None:
    checkpoint, made = deployed("text-classification", **({} if labels == 2 else {"num_labels": 1}))
    out = shutil.copytree(made, tmp_path / "out")
    manifest = read_manifest(out)
    manifest["source"]["config"]["problem_type"] = problem
    write_manifest(out, manifest)
    reference = pipeline("text-classification", checkpoint)
    reference.model.config.problem_type = problem
    model = load(out)
    assert_same(model(TEXTS[1]), reference(TEXTS[1]))
    assert_same(model(TEXTS[1], top_k=None), reference(TEXTS[1], top_k=None))


@pytest.mark.medium
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": 7}])
def test_fill_mask_is_that_of_transformers(deployed: Deployed, options: dict[str, int]) -> None:
    checkpoint, out = deployed("fill-mask")
    model, reference = load(out), pipeline("fill-mask", checkpoint)
    one, two = "the [MASK] was long .", "a [MASK] river [MASK]"
    for given in (one, two, [one], [one, two, "[MASK]"]):
        assert_same(model(given, **options), reference(given, **options))
    with pytest.raises(InputError, match=r"text 2 has no mask; write \[MASK\]"):
        model([one, "no mask"])


@pytest.mark.medium
def test_targets_are_those_of_transformers(deployed: Deployed) -> None:
    checkpoint, out = deployed("fill-mask")
    model, reference = load(out), pipeline("fill-mask", checkpoint)
    one, two = "the [MASK] was long .", "a [MASK] river [MASK]"
    # An entry that only goes on, one that is written otherwise, and the same one twice.
    for targets in ("film", ["film"], ["river", "##s", "film", "warm", "film"], ["FILM", "."]):
        for options in ({}, {"top_k": 2}, {"top_k": 9}):
            for given in (one, [one, two]):
                wanted = reference(given, targets=targets, **options)
                assert_same(model(given, targets=targets, **options), wanted)
    every = model(one, targets=["film", "river"], top_k=None)
    assert len(every) == 2
    scores = {word["token"]: word["score"] for word in model(one, top_k=None)}
    assert all(word["score"] == scores[word["token"]] for word in every)
    for targets, message in (
        (["film", "rivers"], "target 'rivers' is no token .*makes: river ##s"),
        ("the film", "target 'the film' is no token .*makes: the film"),
        ("Σ", r"target 'Σ' is no token .*makes: \[UNK\]"),
        ("", "target '' is no token .*makes: nothing"),
        ("\ud800", "cannot tokenize target"),
        ([], "targets is empty"),
        (["film", 3], "targets holds 3"),
        (7, "targets is of type int"),
    ):
        with pytest.raises(InputError, match=message):
            model(one, targets=targets)


@pytest.mark.medium
def test_feature_extraction_is_that_of_transformers(deployed: Deployed) -> None:
    checkpoint, out = deployed("feature-extraction")
    model, reference = load(out), pipeline("feature-extraction", checkpoint)
    assert_same(model(TEXTS[0]), reference(TEXTS[0]))
    assert_same(model(list(TEXTS)), reference(list(TEXTS)))
    plain = source("feature-extraction", checkpoint)
    wanted = plain(**reference.tokenizer(TEXTS[1], return_tensors="pt")).pooler_output[0].tolist()
    assert_same(model(TEXTS[1], pooled=True), wanted)
    assert_same(model([TEXTS[1]] * 2, pooled=True), [wanted] * 2)


@pytest.mark.medium
def test_both_heads_of_pretraining_answer(deployed: Deployed) -> None:
    checkpoint, out = deployed("pretraining")
    model = load(out)
    text, pair = "the [MASK] was long", "a [MASK] river"
    tokens, scores, order = both_heads(checkpoint, text, pair, 3)
    found = model((text, pair), top_k=3)
    predicted = found["predictions"]
    assert [[one["token"] for one in row] for row in predicted] == tokens
    assert_same([[one["score"] for one in row] for row in predicted], scores)
    assert_same(found["sentence_order"], order)
    assert model("no mask here")["predictions"] == []
    (one,) = model("the [MASK]", targets="film")["predictions"]
    assert [word["token_str"] for word in one] == ["film"]


@pytest.mark.medium
def test_multiple_choice_chooses(deployed: Deployed) -> None:
    checkpoint, out = deployed("multiple-choice")
    model = load(out)
    asked = [
        {"context": TEXTS[0], "question": "who is", "choices": ["the river", "a film", "long"]},
        {"context": TEXTS[1], "choices": ["warm", "x"]},
        {"context": TEXTS[4], "question": "what", "choices": ["a", "the long river", "it"]},
    ]
    for one, found in zip(asked, model(asked), strict=True):
        wanted = chosen(checkpoint, one)
        assert_same(found, wanted)
        assert_same(model(**one), wanted)


@pytest.mark.medium
@pytest.mark.parametrize("repeat", [1, 6])
def test_question_answering_scores_as_transformers_did(deployed: Deployed, repeat: int) -> None:
    checkpoint, out = deployed("question-answering")
    model = load(out)
    question, context = "what is the film of", " ".join([CONTEXT] * repeat)
    count, wanted, null = read(checkpoint, question, context, top_k=3)
    assert (count > 1) == (repeat > 1)
    asked = {"question": question, "context": context}
    assert_same(model(asked, align_to_words=False, top_k=3), wanted)
    # With one answer asked for, only the best of each window counts.
    lone = read(checkpoint, question, context, top_k=1)[1]
    assert_same(model(**asked, align_to_words=False), lone[0])
    empty = {"score": null, "start": 0, "end": 0, "answer": ""}
    with_null = model(
        **asked, align_to_words=False, top_k=9999, handle_impossible_answer=True, max_answer_len=15
    )
    (found_null,) = [one for one in with_null if one["answer"] == ""]
    assert_same(found_null, empty)
    whole = model(**asked)
    assert context[whole["start"] : whole["end"]] == whole["answer"]
    assert [model(**asked)] * 2 == model([asked, asked])
    assert model([asked]) == whole
    assert model(question=[question] * 2, context=context) == [whole, whole]


def test_answers_are_widened_to_words_and_equal_ones_add_up(tiny_tokenizer: Tokenizer) -> None:
    (window,) = windows(
        tiny_tokenizer, "who", "Paris, PARIS", max_length=64, stride=8, max_query_length=9
    )
    at = {tuple(pair): i for i, pair in enumerate(window.offsets.tolist()) if pair[1]}
    logits = np.full(len(window.offsets), -30.0)
    logits[at[(1, 2)]], logits[at[(8, 9)]] = 1.0, 0.0
    words = np.array([(0, 5)] * 5 + [(5, 6)] + [(7, 12)] * 5)
    outputs = {"start": logits, "end": logits}
    (best,) = _answers([window], [outputs], ("start", "end"), words, Options())
    share = 1 / (1 + np.exp(-1.0))
    # First letter to the second word is a span of its own; the two words read the same.
    assert best["score"] == pytest.approx(share**2 + (1 - share) ** 2)
    assert (best["answer"], best["start"], best["end"]) == ("Paris", 0, 5)
    # A word that goes on behind the window ends with it, as in transformers.
    cut = words.copy()
    cut[6:, 1] = 99
    told = _answers([window], [outputs], ("start", "end"), cut, Options(top_k=None))
    assert max(one["end"] for one in told) == 12
    narrow = _answers([window], [outputs], ("start", "end"), None, Options())[0]
    assert (narrow["answer"], narrow["start"]) == ("a", 1)
    assert narrow["score"] == pytest.approx(share**2)


@pytest.mark.medium
def test_samples_answer_as_transformers_does(tmp_path: Path) -> None:
    from albert_deploy.export.samples import SAMPLES
    from albert_deploy.validation.data.datasets import read_dataset

    sample = SAMPLES["sample-sst2"]
    export(str(sample.checkpoint), ExportConfig(), out=tmp_path / "out")
    model, reference = load(tmp_path / "out"), pipeline("text-classification", sample.checkpoint)
    texts = [row.text for row in read_dataset(sample.dataset, sample.data)][:200]  # type: ignore[union-attr]
    assert_same(model(texts), reference(texts))


@pytest.mark.medium
@pytest.mark.parametrize("task", ["fill-mask", "token-classification"])
def test_sentencepiece_tokens_are_written_as_transformers_does(
    make_checkpoint: Callable[..., Path], tmp_path: Path, task: str
) -> None:
    from albert_deploy.export.samples import SAMPLES

    checkpoint = make_checkpoint(task, vocab_size=2000, tokenizer=False)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SAMPLES["sample-sst2"].checkpoint / name, checkpoint / name)
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["model_max_length"] = 64
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    export(str(checkpoint), ExportConfig(task=task), out=tmp_path / "out")
    model, reference = load(tmp_path / "out"), pipeline(task, checkpoint)
    texts = ["A [MASK] film, warm and funny.", "it [MASK] was ϡ [MASK] long"]
    options = {} if task == "fill-mask" else {"aggregation_strategy": "simple"}
    assert_same(model(texts, **options), reference(texts, **options))
    assert_same(model(texts), reference(texts))


@pytest.mark.medium
def test_bad_choices_say_why(deployed: Deployed) -> None:
    model = load(deployed("multiple-choice")[1])
    for given, message in (
        ({"context": "a", "choices": []}, "give a list of texts"),
        ({"context": "a", "choices": "ab"}, "choices that are of type str"),
        ({"context": "a", "choices": ["b", 1]}, "a choice that is of type int"),
        ({"context": "a", "choices": ["b", " "]}, "choice 1"),
        ("a", "takes an object with context and choices, perhaps question"),
    ):
        with pytest.raises(InputError) as caught:
            model(given)
        assert message in str(caught.value)
