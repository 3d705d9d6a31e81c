"""What `load` answers, held against transformers on the same checkpoints."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from albert_deploy.export.step import ExportConfig, export
from albert_deploy.runtime import load
from albert_deploy.runtime.answer_options import Options
from albert_deploy.runtime.answers import Window
from albert_deploy.runtime.contract import TASKS
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import read_manifest, write_manifest
from albert_deploy.runtime.reading import _answers
from albert_deploy.runtime.tasks import load_tokenizer, windows

TAGS = ("O", "B-PER", "I-PER", "B-LOC")
TEXTS = ("the film was long", "a warm river, who is it?", "What IS the film é", "x", "the the")
CONTEXT = "The river was long and warm. A film of the river is in  Paris, not in London!"
CLOSE = 1e-4

Deployed = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="module")
def deployed(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Deployed:
    """Checkpoint and deployment directory of a task."""

    @functools.cache
    def make(task: str, family: str = "albert", **config: Any) -> tuple[Path, Path]:
        if task == "token-classification":
            config["id2label"] = dict(enumerate(TAGS))
            config["label2id"] = {tag: i for i, tag in enumerate(TAGS)}
        checkpoint = make_checkpoint(task, family, **config)
        out = tmp_path_factory.mktemp(task) / "out"
        export(str(checkpoint), ExportConfig(task=task), out=out)
        return checkpoint, out

    return make


def pipeline(task: str, checkpoint: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.pipeline(task, model=str(checkpoint), device="cpu")


def source(task: str, checkpoint: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    name = f"Albert{TASKS[task].architecture}"
    return getattr(transformers, name).from_pretrained(checkpoint).eval()


def assert_same(found: Any, wanted: Any) -> None:
    """Same form, keys and values, numbers within 1e-4; JSON tells NumPy's numbers from Python's."""
    json.dumps(found)
    if isinstance(wanted, dict):
        assert isinstance(found, dict)
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_same(found[key], value)
    elif isinstance(wanted, list):
        assert isinstance(found, list)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, float | np.floating):
        assert found == pytest.approx(float(wanted), abs=CLOSE)
    else:
        assert found == wanted


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
        model(long, truncation=True, max_length=12),
        reference(long, truncation=True, max_length=12),
    )
    with pytest.raises(InputError, match=r"text 1 has .* the limit is 64"):
        model(long)


@pytest.mark.parametrize("labels", [pytest.param(1, marks=pytest.mark.slow), 2])
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


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": 7}])
def test_fill_mask_is_that_of_transformers(deployed: Deployed, options: dict[str, int]) -> None:
    checkpoint, out = deployed("fill-mask")
    model, reference = load(out), pipeline("fill-mask", checkpoint)
    one, two = "the [MASK] was long .", "a [MASK] river [MASK]"
    for given in (one, two, [one], [one, two, "[MASK]"]):
        assert_same(model(given, **options), reference(given, **options))
    with pytest.raises(InputError, match=r"text 2 has no mask; write \[MASK\]"):
        model([one, "no mask"])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["none", "simple"])
def test_token_classification_is_that_of_transformers(deployed: Deployed, strategy: str) -> None:
    checkpoint, out = deployed("token-classification")
    model, reference = load(out), pipeline("token-classification", checkpoint)
    # The tiny tokenizer knows no such letter.
    texts = [*TEXTS, "Σ the river Σ", CONTEXT]
    options: dict[str, Any] = {"aggregation_strategy": strategy}
    assert_same(model(texts, **options), reference(texts, **options))
    assert_same(model(texts[5], **options), reference(texts[5], **options))
    options["ignore_labels"] = ["B-LOC", "PER"]
    assert_same(model(texts, **options), reference(texts, **options))
    assert any(model(texts, **options))
    # The pipeline always cuts.
    long = " ".join([CONTEXT] * 4)
    assert_same(model(long, truncation=True, **options), reference(long, **options))
    for one in model(CONTEXT, aggregation_strategy="simple", ignore_labels=[]):
        assert 0 <= one["start"] < one["end"] <= len(CONTEXT)


@pytest.mark.slow
def test_feature_extraction_is_that_of_transformers(deployed: Deployed) -> None:
    checkpoint, out = deployed("feature-extraction")
    model, reference = load(out), pipeline("feature-extraction", checkpoint)
    assert_same(model(TEXTS[0]), reference(TEXTS[0]))
    assert_same(model(list(TEXTS)), reference(list(TEXTS)))
    plain = source("feature-extraction", checkpoint)
    wanted = plain(**reference.tokenizer(TEXTS[1], return_tensors="pt")).pooler_output[0].tolist()
    assert_same(model(TEXTS[1], pooled=True), wanted)
    assert_same(model([TEXTS[1]] * 2, pooled=True), [wanted] * 2)


@pytest.mark.slow
def test_both_heads_of_pretraining_answer(deployed: Deployed) -> None:
    torch = pytest.importorskip("torch")
    checkpoint, out = deployed("pretraining")
    model, plain = load(out), source("pretraining", checkpoint)
    tokenizer = pipeline("fill-mask", checkpoint).tokenizer
    text, pair = "the [MASK] was long", "a [MASK] river"
    found = model((text, pair), top_k=3)
    feeds = tokenizer(text, pair, return_tensors="pt", return_token_type_ids=True)
    with torch.no_grad():
        wanted = plain(**feeds)
    places = (feeds["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
    words = wanted.prediction_logits[0, places].softmax(-1).topk(3)
    predicted = found["predictions"]
    assert [[one["token"] for one in row] for row in predicted] == words.indices.tolist()
    assert_same([[one["score"] for one in row] for row in predicted], words.values.tolist())
    order = wanted.sop_logits[0].softmax(-1).tolist()
    label = ("in order", "swapped")[int(np.argmax(order))]
    told = {"label": label, "score": max(order), "scores": order}
    assert_same(found["sentence_order"], told)
    assert model("no mask here")["predictions"] == []


@pytest.mark.slow
def test_multiple_choice_chooses(deployed: Deployed) -> None:
    torch = pytest.importorskip("torch")
    checkpoint, out = deployed("multiple-choice")
    model, plain = load(out), source("multiple-choice", checkpoint)
    tokenizer = pipeline("fill-mask", deployed("fill-mask")[0]).tokenizer
    asked = [
        {"context": TEXTS[0], "question": "who is", "choices": ["the river", "a film", "long"]},
        {"context": TEXTS[1], "choices": ["warm", "x"]},
        {"context": TEXTS[4], "question": "what", "choices": ["a", "the long river", "it"]},
    ]
    for one, found in zip(asked, model(asked), strict=True):
        second = [f"{one.get('question', '')} {choice}".strip() for choice in one["choices"]]
        feeds = tokenizer(
            [one["context"]] * len(second),
            second,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=True,
        )
        with torch.no_grad():
            logits = plain(**{name: value[None] for name, value in feeds.items()}).logits[0]
        scores = logits.softmax(-1).tolist()
        best = int(np.argmax(scores))
        choice = one["choices"][best]
        told = {"index": best, "choice": choice, "score": scores[best], "scores": scores}
        assert_same(found, told)
        assert_same(model(**one), told)


def spans(window: Window, start: Any, end: Any, longest: int) -> list[tuple[float, int, int]]:
    """Every span of a window's context with the score of transformers 4's pipeline, slowly."""
    allowed = np.flatnonzero(window.is_context)
    both = []
    for logits in (start, end):
        kept = np.exp([logits[i] for i in (0, *allowed)])
        both.append(dict(zip((0, *allowed), kept / kept.sum(), strict=True)))
    return [
        (both[0][i] * both[1][j], int(window.offsets[i, 0]), int(window.offsets[j, 1]))
        for i in allowed
        for j in allowed
        if i <= j < i + longest
    ]


@pytest.mark.slow
@pytest.mark.parametrize("repeat", [1, 6])
def test_question_answering_scores_as_transformers_did(deployed: Deployed, repeat: int) -> None:
    torch = pytest.importorskip("torch")
    checkpoint, out = deployed("question-answering")
    model, plain = load(out), source("question-answering", checkpoint)
    question, context = "what is the film of", " ".join([CONTEXT] * repeat)
    found = windows(
        load_tokenizer(out), question, context, max_length=64, stride=32, max_query_length=20
    )
    assert (len(found) > 1) == (repeat > 1)
    every: dict[str, list[Any]] = {}
    null = 1.0
    for window in found:
        with torch.no_grad():
            told = plain(**{name: torch.tensor(value) for name, value in window.feeds.items()})
        rows = (told.start_logits[0].double().numpy(), told.end_logits[0].double().numpy())
        # A hand's width of the best of each window is what the pipeline adds up.
        for score, start, end in sorted(spans(window, *rows, 15), reverse=True)[:3]:
            kept = every.setdefault(context[start:end].lower(), [0.0, start, end])
            kept[0] += score
        edge = [np.exp([row[0], *row[window.is_context]]) for row in rows]
        null = min(null, edge[0][0] / edge[0].sum() * edge[1][0] / edge[1].sum())
    best = sorted(every.values(), reverse=True)[:3]
    wanted = [{"score": s, "start": a, "end": b, "answer": context[a:b]} for s, a, b in best]
    asked = {"question": question, "context": context}
    assert_same(model(asked, align_to_words=False, top_k=3), wanted)
    # With one answer asked for, only the best of each window counts.
    if repeat == 1:
        assert_same(model(**asked, align_to_words=False), wanted[0])
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
    narrow = _answers([window], [outputs], ("start", "end"), None, Options())[0]
    assert (narrow["answer"], narrow["start"]) == ("a", 1)
    assert narrow["score"] == pytest.approx(share**2)


@pytest.mark.slow
def test_samples_answer_as_transformers_does(tmp_path: Path) -> None:
    from albert_deploy.validation.datasets import read_dataset
    from albert_deploy.validation.sample import SAMPLES

    sample = SAMPLES["sample-sst2"]
    export(str(sample.checkpoint), ExportConfig(), out=tmp_path / "out")
    model, reference = load(tmp_path / "out"), pipeline("text-classification", sample.checkpoint)
    texts = [row.text for row in read_dataset(sample.dataset, sample.data)][:200]  # type: ignore[union-attr]
    assert_same(model(texts), reference(texts))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["fill-mask", "token-classification"])
def test_sentencepiece_tokens_are_written_as_transformers_does(
    make_checkpoint: Callable[..., Path], tmp_path: Path, task: str
) -> None:
    from albert_deploy.validation.sample import SAMPLES

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


@pytest.mark.slow
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
