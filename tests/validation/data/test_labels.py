from __future__ import annotations

import itertools
from typing import Any

import pytest

from albert_deploy.runtime.errors import InputError
from albert_deploy.validation.data.labels import canonical, label_map
from albert_deploy.validation.data.table import DATASETS


def contract(*labels: str, problem: str | None = "single_label_classification") -> dict[str, Any]:
    return {"labels": list(labels), "problem_type": problem}


def test_every_order_of_mnli_is_mapped_by_name() -> None:
    names = DATASETS["mnli"].names
    for order in itertools.permutations(range(3)):
        labels = [names[index] for index in order]
        assert label_map("mnli", contract(*labels)) == order
        assert label_map("mnli_mm", contract(*(label.upper() for label in labels))) == order
        numbered = [f"{place}: {label}" for place, label in enumerate(labels)]
        assert label_map("mnli", contract(*numbered)) == order


def test_mnli_without_names_is_refused_unless_the_order_is_given() -> None:
    for labels in (("LABEL_0", "LABEL_1", "LABEL_2"), ("0", "1", "2"), ("a", "b", "c")):
        with pytest.raises(InputError, match=r"which is which cannot be told; name them in id2l"):
            label_map("mnli", contract(*labels))
        order = ("contradiction", "entailment", "neutral")
        assert label_map("mnli", contract(*labels), order=order) == (2, 0, 1)
    with pytest.raises(InputError, match="the order has the classes neutral, neutral, entailment"):
        label_map("mnli", contract("a", "b", "c"), order=("neutral", "neutral", "entailment"))
    with pytest.raises(InputError, match="the order has the classes neutral, entailment, those"):
        label_map("mnli", contract("a", "b", "c"), order=("neutral", "entailment"))


@pytest.mark.parametrize(
    ("name", "labels", "wanted"),
    [
        ("sst2", ("NEGATIVE", "POSITIVE"), (0, 1)),
        ("sst2", ("POSITIVE", "NEGATIVE"), (1, 0)),
        ("sst2", ("pos", "neg"), (1, 0)),
        ("sst2", ("LABEL_0", "LABEL_1"), (0, 1)),
        ("sst2", ("LABEL_1", "LABEL_0"), (1, 0)),
        ("sst2", ("0", "1"), (0, 1)),
        ("cola", ("unacceptable", "acceptable"), (0, 1)),
        ("mrpc", ("not_equivalent", "equivalent"), (0, 1)),
        ("mrpc", ("paraphrase", "not paraphrase"), (1, 0)),
        ("qqp", ("duplicate", "not_duplicate"), (1, 0)),
        ("qnli", ("LABEL_0", "LABEL_1"), (0, 1)),
        ("qnli", ("not_entailment", "entailment"), (1, 0)),
        ("rte", ("Entailment", "Not-Entailment"), (0, 1)),
        ("wnli", ("not_entailment", "entailment"), (0, 1)),
    ],
)
def test_two_classes(name: str, labels: tuple[str, ...], wanted: tuple[int, ...]) -> None:
    assert label_map(name, contract(*labels)) == wanted


@pytest.mark.parametrize(
    "labels", [("good", "bad"), ("negative", "other"), ("LABEL_0", "positive"), ("1", "2")]
)
def test_other_names_cannot_be_decided(labels: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="those of sst2 are negative, positive"):
        label_map("sst2", contract(*labels))


def test_another_number_or_kind_of_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"2 classes to choose from, the checkpoint has 3 labels"):
        label_map("sst2", contract("a", "b", "c"))
    with pytest.raises(InputError, match=r"3 classes .* has 2 labels"):
        label_map("mnli", contract("entailment", "not_entailment"))
    with pytest.raises(InputError, match=r"\(multi_label_classification\)"):
        label_map("sst2", contract("LABEL_0", "LABEL_1", problem="multi_label_classification"))


def test_regression_has_one_output() -> None:
    assert label_map("stsb", contract("LABEL_0", problem="regression")) == (0,)
    for labels, problem in ((("a", "b"), "regression"), (("a",), "multi_label_classification")):
        with pytest.raises(InputError, match="stsb wants one number"):
            label_map("stsb", contract(*labels, problem=problem))


def test_tags_are_compared_by_name() -> None:
    tags = ("O", "B-PER", "I-PER", "B-LOC")
    assert label_map("conll2003", contract(*tags)) == (0, 1, 2, 3)
    generic = contract("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")
    with pytest.raises(InputError, match="LABEL_0 is no tag of conll2003"):
        label_map("conll2003", generic)
    assert label_map("conll2003", generic, order=tags) == (0, 1, 2, 3)


def test_heads_without_classes_keep_their_ids() -> None:
    generic = contract("LABEL_0", "LABEL_1", problem=None)
    assert label_map("sop", generic) == (0, 1)
    assert label_map("race", generic) == (0, 1, 2, 3)
    assert label_map("squad", generic) == (0, 1)


def test_canonical() -> None:
    assert canonical(" 0: Not Entailment") == "not_entailment"
    assert canonical("LABEL_1") == "label_1"
    assert canonical("1") == "1"
