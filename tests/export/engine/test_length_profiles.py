"""Profiles chosen from lengths pad the least, take every length, and stay inside the memory."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from albert_deploy.export.engine.profiles import (
    AutoConfig,
    Lengths,
    ProfilePlan,
    activation_bytes,
    auto_profiles,
    best_edges,
    lengths_from,
)
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import write_manifest
from albert_deploy.runtime.trt.profiles import choose_profile
from albert_deploy.validation.data.lengths import lengths_of

BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
SMALL = {"hidden_size": 312, "intermediate_size": 1248, "num_attention_heads": 12}
# What is wanted of four profiles on real data.
MOST_RATIO = 1.25

histograms = st.dictionaries(st.integers(1, 24), st.integers(1, 50), min_size=1, max_size=10)


def array(counts: dict[int, int], limit: int = 24) -> np.ndarray[Any, np.dtype[np.int64]]:
    return lengths_from(counts, limit).counts


def padded_work(counts: dict[int, int], ends: tuple[int, ...], quadratic: float = 0.0) -> float:
    total = 0.0
    for length, count in counts.items():
        end = min(e for e in ends if e >= length)
        total += count * (end + quadratic * end**2)
    return total


@given(histograms, st.integers(1, 4), st.sampled_from((0.0, 0.05)))
def test_no_other_ends_pad_less(counts: dict[int, int], most: int, quadratic: float) -> None:
    found = best_edges(array(counts), most, quadratic=quadratic)
    assert len(found) <= most
    assert list(found) == sorted(set(found))
    longest = max(counts)
    # Any ends at all, not only those where a length of the data is.
    every = (
        (*ends, longest)
        for n in range(most)
        for ends in itertools.combinations(range(1, longest), min(n, longest - 1))
    )
    least = min(padded_work(counts, ends, quadratic) for ends in every)
    assert padded_work(counts, found, quadratic) == pytest.approx(least, rel=1e-12)


@given(histograms, st.integers(1, 9), st.integers(24, 30))
def test_ends_are_multiples_or_the_limit(counts: dict[int, int], multiple: int, limit: int) -> None:
    found = best_edges(array(counts, limit), 3, multiple=multiple)
    assert all(end % multiple == 0 or end == limit for end in found)
    grid = sorted({min(n, limit) for n in range(multiple, limit + multiple, multiple)})
    ways = (e for n in (1, 2, 3) for e in itertools.combinations(grid, min(n, len(grid))))
    least = min(padded_work(counts, ends) for ends in ways if ends[-1] >= max(counts))
    assert padded_work(counts, found) == least


@given(histograms)
def test_more_profiles_never_pad_more(counts: dict[int, int]) -> None:
    lengths = lengths_from(counts, 24)
    ratios = [auto_profiles(lengths, BASE, AutoConfig(most=n)).ratio for n in range(1, 7)]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] >= 1
    full = auto_profiles(lengths, BASE, AutoConfig(most=24, multiple=1))
    # Each length has a bucket of its own, and none is left over.
    assert full.ratio == 1
    assert len(full.buckets) == len(counts)
    assert list(full.ratios) == sorted(set(full.ratios), reverse=True)


@given(histograms, st.integers(1, 4), st.integers(24, 40), st.integers(1, 32))
def test_every_length_has_one_profile(
    counts: dict[int, int], most: int, limit: int, rows: int
) -> None:
    plan = auto_profiles(lengths_from(counts, limit), BASE, AutoConfig(most=most))
    assert len(plan.profiles) <= most
    for length in range(1, limit + 1):
        fitting = [i for i, p in enumerate(plan.profiles) if p.fits((rows, length))]
        assert fitting == [choose_profile(plan.profiles, (rows, length))]
        bucket = plan.buckets[fitting[0]]
        assert bucket.first <= length <= bucket.maximum
    assert not any(p.fits((rows, limit + 1)) for p in plan.profiles)
    # Texts of the data are no longer than the optimum of their profile, to which they are padded.
    assert plan.padded_tokens == padded_work(counts, tuple(p.optimum[1] for p in plan.profiles))
    assert sum(b.sequences for b in plan.buckets) == sum(counts.values())
    assert sum(b.real_tokens for b in plan.buckets) == plan.lengths.real_tokens


def test_ranges_of_rows_share_the_profiles() -> None:
    lengths = lengths_from({10: 5, 20: 5, 60: 1}, 128)
    config = AutoConfig(batches=((1, 1, 1), (2, 16, 32)), run_tokens=512)
    plan = auto_profiles(lengths, BASE, config)
    assert [str(p) for p in plan.profiles] == [
        "1x1:1x24:1x24",
        "1x25:1x64:1x128",
        "2x1:21x24:32x24",
        "2x25:8x64:32x128",
    ]


def test_choices_are_an_axis_of_their_own() -> None:
    counts = lengths_from({10: 8, 30: 4}, 64)
    lengths = Lengths(counts=counts.counts, real=counts.real, choices={2: 1, 4: 5, 5: 2})
    plan = auto_profiles(lengths, BASE, AutoConfig(most=2))
    assert [str(p) for p in plan.profiles] == ["1x1x1:8x4x16:32x5x16", "1x1x17:8x4x32:32x5x64"]


def test_memory_bounds_the_rows() -> None:
    lengths = lengths_from({30: 5, 500: 1}, 512)
    for bound in (60_000_000, 150_000_000):
        plan = auto_profiles(lengths, BASE, AutoConfig(memory_bytes=bound))
        for profile in plan.profiles:
            rows, length = profile.maximum
            assert activation_bytes((rows, length), BASE) <= bound
            assert rows == 32 or activation_bytes((rows + 1, length), BASE) > bound
            assert profile.optimum[0] == min(8, rows)
    assert [p.maximum[0] for p in plan.profiles] == [32, 14]
    with pytest.raises(InputError, match=r"20,000,000 bytes hold 0 rows of 512 tokens, wanted"):
        auto_profiles(lengths, BASE, AutoConfig(memory_bytes=20_000_000))


# Total Activation Memory in the log of TensorRT-RTX 1.7.1.116 for SM89, one profile that ends at
# (rows, tokens): fp16 and fp32 files with random weights in base geometry and of a small one.
LOGGED = [
    (BASE, 2, {(1, 128): 11813376, (32, 128): 69222400, (8, 512): 69222400, (32, 512): 276889600}),
    (
        BASE,
        4,
        {(1, 128): 12993024, (32, 128): 134037504, (8, 512): 272449536, (32, 512): 1065222144},
    ),
    (SMALL, 2, {(1, 128): 9028096, (32, 128): 34947072, (32, 512): 107020288}),
    (SMALL, 4, {(1, 128): 9937408, (32, 128): 91242496, (8, 512): 242237440, (32, 512): 956694528}),
]


@pytest.mark.parametrize(("model", "element_bytes", "logged"), LOGGED)
def test_the_memory_estimate_is_above_what_was_logged(
    model: dict[str, int], element_bytes: int, logged: dict[tuple[int, int], int]
) -> None:
    for shape, taken in logged.items():
        estimate = activation_bytes(shape, model, element_bytes=element_bytes)
        assert taken < estimate < 1.5 * taken + 8_000_000


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"most": 0}, "at least 1"),
        ({"multiple": 0}, "at least 1"),
        ({"run_tokens": -1}, "at least 1"),
        ({"memory_bytes": 0}, "at least 1"),
        ({"element_bytes": 1}, "elements of 2 or 4"),
        ({"work": "seconds"}, "unknown work 'seconds'; use one of: tokens, operations"),
        ({"batches": ((0, 1, 1),)}, "least <= best <= largest"),
        ({"batches": ((1, 8, 4),)}, "least <= best <= largest"),
        ({"batches": ((1, 2, 4), (4, 8, 8))}, "above the one before it"),
        ({"batches": ()}, "got 0 ranges of rows"),
        ({"most": 1, "batches": ((1, 1, 1), (2, 8, 8))}, "got 2 ranges of rows for 1 profiles"),
    ],
)
def test_wrong_options_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        AutoConfig(**given)


@pytest.mark.parametrize("counts", [{}, {5: 0}, {0: 1}, {25: 1}, {5: -1}])
def test_lengths_out_of_range_are_refused(counts: dict[int, int]) -> None:
    with pytest.raises(InputError, match=r"wanted none or more|got no texts"):
        lengths_from(counts, 24)


def test_operations_count_attention() -> None:
    # In tokens, padding 50 from 300 to 400 is more than 40 from 400 to 512; in products less.
    counts = array({300: 50, 400: 40, 512: 21}, 512)
    tokens = best_edges(counts, 2)
    model = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    lengths = Lengths(counts=counts, real=counts * np.arange(513))
    config = AutoConfig(most=2, multiple=1, work="operations")
    work = tuple(p.optimum[1] for p in auto_profiles(lengths, model, config).profiles)
    assert (tokens, work) == ((300, 512), (400, 512))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that makes what ``lengths_of`` reads of a deployment directory."""

    def make(task: str, tokenizer: Path | Tokenizer, max_length: int = 512) -> Path:
        directory = tmp_path_factory.mktemp("deployed")
        if isinstance(tokenizer, Path):
            shutil.copy(tokenizer, directory / "tokenizer.json")
        else:
            tokenizer.save(str(directory / "tokenizer.json"))
        choices = ["choices"] if task == "multiple-choice" else []
        inputs = [{"name": "input_ids", "axes": ["batch", *choices, "sequence"]}]
        keys = ("source", "parameter_bytes", "files", "versions", "steps", "variants")
        contract = {"inputs": inputs, "max_length": max_length, "pad_token_id": 0}
        manifest: dict[str, Any] = dict.fromkeys(keys) | {"task": task, "contract": contract}
        write_manifest(directory, manifest | {"format": 1})
        return directory

    return make


def test_texts_are_counted_as_their_task_reads_them(
    tmp_path: Path, tiny_tokenizer: Tokenizer, deployed: Callable[..., Path]
) -> None:
    texts = ["a film", "the warm river", "a film", "the river " * 40]
    (tmp_path / "dev.tsv").write_text(
        "sentence\tlabel\n" + "".join(f"{text}\t1\n" for text in texts), encoding="utf-8"
    )
    directory = deployed("text-classification", tiny_tokenizer, 24)
    found = lengths_of(directory, ("sst2", tmp_path))
    assert {n: int(found.counts[n]) for n in np.flatnonzero(found.counts)} == {4: 2, 5: 1, 24: 1}
    assert found.real_tokens == 4 + 5 + 4 + 24
    assert (found.longest, found.max_length, found.sequences) == (24, 24, 4)
    assert found.origin["file"] == "dev.tsv"
    some = lengths_of(directory, ("sst2", tmp_path), every=2, max_length=3)
    assert {n: int(some.counts[n]) for n in np.flatnonzero(some.counts)} == {3: 2}
    assert (some.origin["rows"], some.max_length) == (2, 24)


def test_a_long_context_counts_for_each_window(
    tmp_path: Path, tiny_tokenizer: Tokenizer, deployed: Callable[..., Path]
) -> None:
    context = "the river was long " * 20
    question = {"id": "q", "question": "who", "answers": [{"text": "the", "answer_start": 0}]}
    data = {"data": [{"paragraphs": [{"context": context, "qas": [question]}]}]}
    (tmp_path / "dev-v1.1.json").write_text(json.dumps(data), encoding="utf-8")
    directory = deployed("question-answering", tiny_tokenizer, 24)
    found = lengths_of(directory, ("squad", tmp_path))
    assert found.sequences > 3
    assert found.counts[24] == found.sequences - 1


def test_choices_of_a_question_are_as_long_as_its_longest(
    tmp_path: Path, tiny_tokenizer: Tokenizer, deployed: Callable[..., Path]
) -> None:
    passage = {
        "id": "m1.txt",
        "article": "the river was long",
        "questions": ["what is _ ?"],
        "options": [["a", "the film", "warm", "the long river"]],
        "answers": ["A"],
    }
    folder = tmp_path / "dev" / "middle"
    folder.mkdir(parents=True)
    (folder / "1.txt").write_text(json.dumps(passage), encoding="utf-8")
    found = lengths_of(deployed("multiple-choice", tiny_tokenizer, 32), ("race", tmp_path))
    assert found.choices == {4: 1}
    assert found.sequences == 4
    assert found.counts[found.longest] == 4
    # Three of them are shorter.
    assert 4 * (found.longest - 2) <= found.real_tokens < 4 * found.longest
    plan = auto_profiles(found, BASE)
    assert [p.fits((1, 4, found.longest)) for p in plan.profiles] == [True]
    assert plan.ratio > 1


def test_lengths_come_from_data_of_the_task(
    tmp_path: Path, tiny_tokenizer: Tokenizer, deployed: Callable[..., Path]
) -> None:
    directory = deployed("text-classification", tiny_tokenizer, 24)
    with pytest.raises(InputError, match="squad is data for question-answering"):
        lengths_of(directory, ("squad", tmp_path))
    for wrong in ({"every": 0}, {"max_length": 25}, {"max_length": 0}):
        with pytest.raises(InputError, match="wanted 1 to 24 tokens"):
            lengths_of(directory, ("sst2", tmp_path), **wrong)


def check_real(plan: ProfilePlan, single: float) -> None:
    assert len(plan.profiles) <= 4
    assert plan.ratio <= MOST_RATIO
    assert plan.ratio_at(512) == pytest.approx(single, rel=0.02)
    # Four are needed: with three it is more.
    assert plan.ratios[2] > MOST_RATIO
    assert {p.maximum[1] for p in plan.profiles[-1:]} == {512}


def test_four_profiles_are_enough_for_sst2(shared: Path, deployed: Callable[..., Path]) -> None:
    tokenizer = shared / "checkpoints" / "albert-tiny-sst2" / "tokenizer.json"
    directory = deployed("text-classification", tokenizer)
    lengths = lengths_of(directory, ("sst2", shared / "data" / "glue" / "SST-2"))
    assert (lengths.sequences, lengths.real_tokens, lengths.longest) == (872, 24_390, 60)
    plan = auto_profiles(lengths, BASE)
    check_real(plan, single=18.31)
    assert plan.padded_tokens == 30_184
    assert [p.optimum[1] for p in plan.profiles] == [24, 32, 48, 64]


@pytest.mark.parametrize(
    ("max_length", "every", "sequences"),
    [
        (384, 10, 1_077),
        (512, 10, 1_064),
        pytest.param(384, 1, 10_796, marks=pytest.mark.medium),
        pytest.param(512, 1, 10_626, marks=pytest.mark.medium),
    ],
)
def test_four_profiles_are_enough_for_squad(
    max_length: int, every: int, sequences: int, shared: Path, deployed: Callable[..., Path]
) -> None:
    tokenizer = shared / "data" / "albert-tokenizer" / "tokenizer.json"
    directory = deployed("question-answering", tokenizer)
    data = ("squad", shared / "data" / "squad")
    lengths = lengths_of(directory, data, every=every, max_length=max_length)
    assert lengths.sequences == sequences
    check_real(auto_profiles(lengths, BASE), single={384: 2.873, 512: 2.854}[max_length])


@pytest.fixture(scope="module")
def plan() -> ProfilePlan:
    lengths = lengths_from({5: 10, 12: 30, 30: 20, 61: 4}, 128, {"name": "sst2"})
    return auto_profiles(lengths, BASE, AutoConfig(most=2))


def test_a_record_is_plain_json(plan: ProfilePlan) -> None:
    told = plan.to_json()
    assert json.loads(json.dumps(told)) == told
    assert told["padded_tokens"] == sum(bucket["padded_tokens"] for bucket in told["buckets"])
    assert told["real_tokens"] == 5 * 10 + 12 * 30 + 30 * 20 + 61 * 4
    assert told["padded_ratio"] == told["padded_tokens"] / told["real_tokens"]
    single = 64 * 128 / told["real_tokens"]
    assert told["one_profile_ratio"] == {"61": single * 61 / 128, "128": single}
