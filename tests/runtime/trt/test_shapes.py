"""A batch runs in the cheapest profile that takes it, is split or padded, or refused by name."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.trt.profiles import (
    POLICIES,
    Profile,
    Shape,
    choose_profile,
    joined_outputs,
    padded_rows,
    parse_profile,
    parse_profiles,
    plan_runs,
)

SHORT = parse_profile("1x1:8x32:32x32", 2)
LONG = parse_profile("1x33:8x128:32x512", 2)
BIG = parse_profile("8x16:64x64:64x64", 2)


@st.composite
def profiles_of(draw: st.DrawFn, rank: int) -> Profile:
    sizes = [sorted(draw(st.tuples(*[st.integers(1, 9)] * 3))) for _ in range(rank)]
    least, best, most = (tuple(shape) for shape in zip(*sizes, strict=True))
    return Profile(minimum=least, optimum=best, maximum=most)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Profile], Shape]:
    rank = draw(st.sampled_from((2, 3)))
    profiles = draw(st.lists(profiles_of(rank), min_size=1, max_size=4))
    return profiles, draw(st.tuples(*[st.integers(1, 12)] * rank))


@pytest.mark.parametrize(
    ("text", "rank", "wanted"),
    [
        ("1x1:8x128:32x128", 2, ((1, 1), (8, 128), (32, 128))),
        (" 1x4x1:4x4x128:8x4x512 ", 3, ((1, 4, 1), (4, 4, 128), (8, 4, 512))),
        ("8x128", 2, ((8, 128),) * 3),
    ],
)
def test_a_profile_is_read_and_written(text: str, rank: int, wanted: tuple[Shape, ...]) -> None:
    profile = parse_profile(text, rank)
    assert (profile.minimum, profile.optimum, profile.maximum) == wanted
    assert parse_profile(str(profile), rank) == profile
    assert Profile.from_json(json.loads(json.dumps(profile.to_json()))) == profile
    assert profile.work == math.prod(wanted[2])


@pytest.mark.parametrize(
    ("text", "rank", "told"),
    [
        ("1x1:8x128", 2, "min:opt:max, each batch x sequence"),
        ("1x1:8x128:32x128", 3, "each batch x choices x sequence"),
        ("1:8:32", 2, "each batch x sequence"),
        ("1x-1:8x128:32x128", 2, "got the profile '1x-1:8x128:32x128'"),
        ("1x\u00b2:8x128:32x128", 2, "wanted min:opt:max"),
        ("", 2, "wanted min:opt:max"),
        ("0x1:8x128:32x128", 2, "wanted 1 <= minimum <= optimum <= maximum"),
        ("1x1:64x128:32x128", 2, "64x128:32x128; wanted 1 <= minimum"),
        ("1x200:8x128:32x256", 2, "in every axis"),
    ],
)
def test_a_wrong_profile_says_what_was_wanted(text: str, rank: int, told: str) -> None:
    with pytest.raises(InputError, match=told.replace("(", r"\(")):
        parse_profile(text, rank)


def test_profiles_are_separated_by_commas() -> None:
    assert parse_profiles("1x1:8x32:32x32, 1x33:8x128:32x512", 2) == (SHORT, LONG)
    with pytest.raises(InputError, match="got the profile ''"):
        parse_profiles("1x1:8x32:32x32,", 2)


def test_shapes_of_different_rank_are_no_profile() -> None:
    with pytest.raises(InputError, match="three shapes of one rank"):
        Profile(minimum=(1, 1), optimum=(8, 2, 128), maximum=(8, 4, 128))
    with pytest.raises(InputError, match="three shapes of one rank"):
        Profile(minimum=(1,), optimum=(8,), maximum=(8,))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "1x1",
        {"min": [1, 1], "opt": [8, 128]},
        {"min": [1, 1], "opt": [8, 128], "max": "8x128"},
        {"min": [1, 1], "opt": [8, 128], "max": [8, 128.5]},
        {"min": [True, 1], "opt": [8, 128], "max": [8, 128]},
        {"min": [1, 1], "opt": [8, 128], "max": [8, -1]},
    ],
)
def test_a_damaged_record_has_no_profile(value: Any) -> None:
    with pytest.raises(InputError, match="got the profile"):
        Profile.from_json(value)


@given(cases())
def test_the_cheapest_profile_that_fits_is_chosen(case: tuple[list[Profile], Shape]) -> None:
    profiles, shape = case
    chosen = choose_profile(profiles, shape)
    works = [
        math.prod(p.maximum)
        for p in profiles
        if all(np.array(p.minimum) <= shape) and all(shape <= np.array(p.maximum))
    ]
    if chosen is None:
        assert not works
    else:
        assert profiles[chosen].fits(shape)
        assert profiles[chosen].work == min(works)
        assert plan_runs(profiles, shape)[0].profile == chosen


@given(cases(), st.sampled_from(POLICIES))
def test_runs_cover_a_batch_once_in_shapes_that_fit(
    case: tuple[list[Profile], Shape], policy: str
) -> None:
    profiles, shape = case
    try:
        runs = plan_runs(profiles, shape, policy)
    except InputError:
        assert policy in refusing(profiles, shape)
        return
    assert [run.start for run in runs] == [0, *(run.stop for run in runs[:-1])]
    assert runs[-1].stop == shape[0]
    for run in runs:
        assert run.rows >= 1
        assert profiles[run.profile].fits(run.shape)
        assert run.profile == choose_profile(profiles, run.shape)
        assert all(given >= wanted for given, wanted in zip(run.shape[1:], shape[1:], strict=True))
        assert run.shape[0] >= run.rows
        if policy != "pad":
            assert run.shape == (run.rows, *shape[1:])
        if policy == "error":
            assert len(runs) == 1


def refusing(profiles: list[Profile], shape: Shape) -> list[str]:
    refused = []
    for policy in POLICIES:
        try:
            plan_runs(profiles, shape, policy)
        except InputError:
            refused.append(policy)
    # What a policy does, a looser one does too.
    assert refused == list(POLICIES[: len(refused)])
    return refused


@given(cases())
def test_only_what_is_too_large_cannot_be_padded(case: tuple[list[Profile], Shape]) -> None:
    profiles, shape = case
    held = [p for p in profiles if all(np.array(shape[1:]) <= p.maximum[1:])]
    assert ("pad" in refusing(profiles, shape)) == (not held)


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 60))
def test_rows_are_split_wherever_they_can_be(least: int, more: int, rows: int) -> None:
    profile = Profile(minimum=(least, 1), optimum=(least, 4), maximum=(least + more, 4))
    counts = [n for n in range(1, rows + 1) if n * least <= rows <= n * (least + more)]
    if not counts:
        assert "split" in refusing([profile], (rows, 3))
        return
    runs = plan_runs([profile], (rows, 3), "split")
    assert len(runs) == min(counts)
    # Most of them have one shape, which a captured graph knows.
    assert len({run.shape for run in runs[:-1]}) <= 2


def test_a_split_leaves_enough_rows_for_the_last_run() -> None:
    profile = parse_profile("8x1:32x64:32x64", 2)
    assert [run.rows for run in plan_runs([profile], (70, 20), "split")] == [32, 30, 8]
    assert [run.rows for run in plan_runs([SHORT, LONG], (70, 20), "split")] == [32, 32, 6]


def test_each_run_of_a_split_takes_its_cheapest_profile() -> None:
    single = parse_profile("1x1:1x64:1x64", 2)
    runs = plan_runs([BIG, single], (65, 20), "pad")
    # 57 and 8 rows: the large profile wants at least 8.
    assert [(run.profile, run.rows) for run in runs] == [(0, 57), (0, 8)]
    many = parse_profile("1x1:64x64:64x64", 2)
    runs = plan_runs([many, single], (65, 20), "split")
    assert [(run.profile, run.rows) for run in runs] == [(0, 64), (1, 1)]


def test_padding_is_the_least_that_does() -> None:
    fixed = [parse_profile("8x64", 2), parse_profile("4x128", 2), parse_profile("4x512", 2)]
    (run,) = plan_runs(fixed, (3, 20), "pad")
    assert (run.profile, run.shape, run.rows) == (0, (8, 64), 3)
    small = [parse_profile("16x64", 2), parse_profile("4x64", 2)]
    assert [run.shape for run in plan_runs(small, (5, 20), "pad")] == [(4, 64), (4, 64)]
    runs = plan_runs(fixed, (10, 100), "pad")
    assert [(run.profile, run.shape, run.rows) for run in runs] == [
        (1, (4, 128), 4),
        (1, (4, 128), 4),
        (1, (4, 128), 2),
    ]


@pytest.mark.parametrize(
    ("shape", "policy", "told"),
    [
        ((40, 20), "error", "got inputs of 40x20; the engine takes 1x1 to 32x32, 1x33 to 32x512"),
        ((40, 20), "error", "use the policy 'split' or build it with a profile"),
        ((3, 600), "pad", "a profile for batch x sequence of this size"),
        ((3, 2, 20), "pad", "a profile for batch x choices x sequence"),
        ((0, 20), "pad", "give at least one row of one token"),
        ((), "split", "give at least one row of one token"),
        ((3, 20), "squeeze", "unknown policy 'squeeze'; use one of: error, split, pad"),
    ],
)
def test_a_refusal_names_the_limits_and_a_remedy(shape: Shape, policy: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        plan_runs([SHORT, LONG], shape, policy)
    assert told in str(caught.value)
    assert ("policy 'pad'" in str(caught.value)) is False


def test_a_refusal_offers_padding_where_that_is_what_helps() -> None:
    with pytest.raises(InputError, match="use the policy 'pad' or build it"):
        plan_runs([BIG], (3, 20), "split")
    with pytest.raises(InputError, match="the engine takes none"):
        plan_runs([], (3, 20), "pad")


def answered(feeds: dict[str, np.ndarray[Any, np.dtype[np.int64]]]) -> dict[str, Any]:
    """Stand in for a model: what is padded changes nothing that is visible."""
    seen = (feeds["input_ids"] * feeds["attention_mask"]).astype(np.float32)
    assert (feeds["attention_mask"].sum(axis=-1) > 0).all()
    return {"tokens": seen + 1, "pooled": seen.sum(axis=-1, keepdims=True), "sums": seen.sum(-1)}


@given(cases(), st.booleans(), st.integers(0, 2**32 - 1))
@example(case=([parse_profile("4x8", 2)], (10, 5)), longer=False, seed=0)
def test_a_batch_in_runs_is_answered_as_in_one(
    case: tuple[list[Profile], Shape], longer: bool, seed: int
) -> None:
    profiles, shape = case
    assume("pad" not in refusing(profiles, shape))
    random = np.random.default_rng(seed)
    mask = random.integers(0, 2, shape)
    mask[..., 0] = 1
    feeds = {
        "input_ids": random.integers(5, 50, shape),
        "attention_mask": mask,
        "token_type_ids": random.integers(0, 2, shape),
    }
    runs = plan_runs(profiles, shape, "pad")
    if longer:
        # What runs has the length of the optimum, where the batch is shorter.
        lengths = [max(run.shape[-1], profiles[run.profile].optimum[-1]) for run in runs]
        shapes = [(*r.shape[:-1], n) for r, n in zip(runs, lengths, strict=True)]
        runs = tuple(replace(run, shape=s) for run, s in zip(runs, shapes, strict=True))
    axes: dict[str, tuple[str | int, ...]] = {
        "tokens": ("batch", "sequence"),
        "pooled": ("batch", 1),
        "sums": ("batch",),
    }
    if len(shape) == 3:
        axes = {name: (named[0], "choices", *named[1:]) for name, named in axes.items()}
    parts = []
    for run in runs:
        given = padded_rows(feeds, run, pad_id=3)
        assert {value.shape for value in given.values()} == {run.shape}
        assert {str(value.dtype) for value in given.values()} == {"int64"}
        beyond = given["input_ids"][..., shape[-1] :]
        assert (beyond == 3).all()
        assert not given["attention_mask"][..., shape[-1] :].any()
        parts.append(answered(given))
    found = joined_outputs(parts, runs, shape, axes)
    for name, wanted in answered(feeds).items():
        np.testing.assert_array_equal(found[name], wanted, err_msg=name)
