"""Tagged tokens and entities, held against transformers' pipeline on many texts."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models import TAGS, tagged
from same_answers import CONTEXT, assert_same, pipeline

from albert_deploy.export.step import ExportConfig, export
from albert_deploy.runtime import load
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.options import AGGREGATIONS

LIMIT = 64
VOCABULARIES = ("wordpiece", "sentencepiece")
GROUPED = [name for name in AGGREGATIONS if name != "none"]
WORDS = [
    *("the", "film", "river", "rivers", "longer", "Paris", "U.S.", "it's", "film-maker", "O'Neil"),
    *("naïve", "Σ", "ϡ", "3.14", "1,000", "who?", "(warm)", '"quoted"', "unbelievably", "a"),
    *("İstanbul", "中文", "e-mail:", "x@y.org", "[MASK]", "[SEP]", "—", "…"),
]

pytestmark = pytest.mark.filterwarnings("ignore:Tokenizer does not support real words:UserWarning")


def texts(count: int, words: tuple[int, int], seed: int) -> list[str]:
    """Words with and without spaces between them, spaces at the ends and twice among them."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        gaps = draw.choices((" ", "  ", "", "\n", "\t"), (30, 3, 3, 1, 1), k=words[1])
        chosen = draw.choices(WORDS, k=draw.randint(*words))
        text = "".join(word + gap for word, gap in zip(chosen, gaps, strict=False))
        found.append(draw.choice(("", "", " ")) + text)
    return found


@pytest.fixture(scope="module")
def both(
    make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Any, Any]]:
    """Our model and transformers' pipeline for each kind of vocabulary."""
    from safetensors.torch import load_file, save_file

    from albert_deploy.export.samples import SAMPLES

    found = {}
    for kind in VOCABULARIES:
        own = kind == "sentencepiece"
        checkpoint = make_checkpoint(
            "token-classification",
            tokenizer=not own,
            **tagged("token-classification"),
            **({"vocab_size": 2000} if own else {}),
        )
        weights = load_file(checkpoint / "model.safetensors")
        # Neighbours often agree then, and often do not.
        weights["classifier.weight"] *= 12
        weights["albert.embeddings.word_embeddings.weight"] *= 12
        save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
        if own:
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(SAMPLES["sample-sst2"].checkpoint / name, checkpoint / name)
            path = checkpoint / "tokenizer_config.json"
            settings = json.loads(path.read_text(encoding="utf-8")) | {"model_max_length": LIMIT}
            path.write_text(json.dumps(settings), encoding="utf-8")
        out = tmp_path_factory.mktemp(kind) / "out"
        export(str(checkpoint), ExportConfig(task="token-classification"), out=out)
        found[kind] = load(out), pipeline("token-classification", checkpoint)
    return found


@pytest.mark.medium
@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("strategy", AGGREGATIONS)
def test_entities_are_those_of_transformers(
    both: dict[str, tuple[Any, Any]], kind: str, strategy: str
) -> None:
    model, reference = both[kind]
    given = [*texts(40, (1, 12), seed=3), CONTEXT, "x"]
    options: dict[str, Any] = {"aggregation_strategy": strategy}
    assert_same(model(given, truncation=True, **options), reference(given, **options))
    assert_same(model(CONTEXT, **options), reference(CONTEXT, **options))
    key = "entity" if strategy == "none" else "entity_group"
    every = model(given, truncation=True, ignore_labels=[], **options)
    kinds = {one[key] for answer in every for one in answer}
    assert kinds == (set(TAGS) if strategy == "none" else {"O", "PER", "LOC"})
    assert_same(every, reference(given, ignore_labels=[], **options))
    some = ["B-LOC", "PER"]
    assert_same(
        model(given, truncation=True, ignore_labels=some, **options),
        reference(given, ignore_labels=some, **options),
    )
    # The pipeline always cuts.
    long = " ".join([CONTEXT] * 4)
    assert_same(model(long, truncation=True, **options), reference(long, **options))
    with pytest.raises(InputError, match="the limit is 64"):
        model(long, **options)


@pytest.mark.medium
@pytest.mark.parametrize("kind", VOCABULARIES)
def test_strategies_differ_where_words_have_several_pieces(
    both: dict[str, tuple[Any, Any]], kind: str
) -> None:
    model, _ = both[kind]
    given = texts(40, (1, 12), seed=3)
    found = {
        name: json.dumps(model(given, truncation=True, aggregation_strategy=name))
        for name in AGGREGATIONS
    }
    assert len(set(found.values())) == len(AGGREGATIONS)


@pytest.mark.medium
@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize("strategy", GROUPED)
def test_windows_of_long_texts_are_joined_as_transformers_does(
    both: dict[str, tuple[Any, Any]], kind: str, strategy: str
) -> None:
    model, reference = both[kind]
    given = [*texts(4, (40, 70), seed=5), "x", " ".join([CONTEXT] * 4)]
    for stride in (0, 7, 50):
        options: dict[str, Any] = {"aggregation_strategy": strategy, "stride": stride}
        # Both at once cut nothing.
        assert_same(model(given, truncation=stride == 7, **options), reference(given, **options))
    last = model(given[-1], aggregation_strategy=strategy, stride=7)[-1]
    assert last["end"] > 3 * len(CONTEXT)


@pytest.mark.medium
def test_strides_without_room_or_groups_are_errors(both: dict[str, tuple[Any, Any]]) -> None:
    model, _ = both["wordpiece"]
    grouped: dict[str, Any] = {"aggregation_strategy": "simple"}
    with pytest.raises(InputError, match="use simple, first, average or max"):
        model(CONTEXT, stride=8)
    for stride, limit in ((62, None), (8, 10), (0, 2)):
        with pytest.raises(InputError, match=f"a stride of {stride} leaves no room .* text 1"):
            model(CONTEXT, stride=stride, max_length=limit, **grouped)
    with pytest.raises(InputError, match="stride is -1"):
        model(CONTEXT, stride=-1, **grouped)
    with pytest.raises(InputError, match=r"use one of: none, simple, first, average, max"):
        model(CONTEXT, aggregation_strategy="last")
    assert model(" ", stride=8, **grouped) == []
    one = model(CONTEXT, ignore_labels="PER", **grouped)
    assert one == model(CONTEXT, ignore_labels=["PER"], **grouped)
