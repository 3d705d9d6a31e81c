"""Statistics: every value counted, whatever the order; files that are not ours are refused."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from albert_deploy.quantize.calibration.statistics import (
    HALF,
    Statistics,
    load_statistics,
    observe,
    save_statistics,
)
from albert_deploy.runtime.errors import InputError

Array = npt.NDArray[np.float32]
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
TINY = float(np.finfo(np.float32).tiny)


def tensors(channels: int = 3) -> st.SearchStrategy[Array]:
    shapes = st.tuples(st.integers(1, 2), st.integers(1, 5), st.just(channels))
    return arrays(np.float32, shapes, elements=FLOATS)


def same(a: Statistics, b: Statistics) -> None:
    assert (a.label, a.width, a.minimum, a.maximum) == (b.label, b.width, b.minimum, b.maximum)
    assert a.counts.dtype == b.counts.dtype
    assert a.peaks.dtype == b.peaks.dtype
    np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_array_equal(a.peaks, b.peaks)


def observed(parts: list[Array]) -> Statistics:
    statistics = observe(parts[0], "x")
    for part in parts[1:]:
        statistics = observe(part, "x", statistics)
    return statistics


def row(*values: float) -> Array:
    return np.array([values], np.float32)


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=6), elements=FLOATS))
def test_every_value_is_in_the_bin_that_covers_it(values: Array) -> None:
    statistics = observe(values, "x")
    assert statistics.total == values.size
    flat = values.astype(np.float64).reshape(-1)
    edges = np.arange(-HALF, HALF + 1) * statistics.width
    assert edges[0] <= flat.min()
    assert flat.max() <= edges[-1]
    bins = np.where(
        flat > 0, np.searchsorted(edges, flat, "left"), np.searchsorted(edges, flat, "right")
    )
    np.testing.assert_array_equal(statistics.counts, np.bincount(bins - 1, minlength=2 * HALF))


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=6), elements=FLOATS))
def test_extremes_and_channel_peaks_are_exact(values: Array) -> None:
    statistics = observe(values, "x")
    assert (statistics.minimum, statistics.maximum) == (values.min(), values.max())
    assert statistics.peak == np.abs(values).max()
    if values.ndim == 4:
        # Heads are joined the way attention's output projection reads them.
        values = values.transpose(0, 2, 1, 3)
        values = values.reshape(-1, values.shape[2] * values.shape[3])
    channels = values.reshape(-1, values.shape[-1])
    np.testing.assert_array_equal(statistics.peaks, [np.abs(c).max() for c in channels.T])
    alone = observe(values, "x", channels=False)
    np.testing.assert_array_equal(alone.peaks, [statistics.peak])


# The largest value on a bin's far edge; zeros before what is hardly larger.
@example([row(1, 0, 0), row(1.5, 0, 0)], 1)
@example([row(-1, 0, 0), row(-1.5, 0, 0)], 1)
@example([row(0, 0, 0), row(1e-40, 0, 0)], 1)
@example([row(0, 0, 0), row(1e30, 1e-45, -1e-45)], 1)
@given(st.lists(tensors(), min_size=1, max_size=6), st.integers(0, 1000))
def test_the_order_of_the_rows_does_not_matter(parts: list[Array], seed: int) -> None:
    wanted = observed(parts)
    same(observed(parts[::-1]), wanted)
    same(observed([parts[i] for i in np.random.default_rng(seed).permutation(len(parts))]), wanted)


@given(st.lists(tensors(), min_size=1, max_size=6))
def test_rows_in_parts_count_as_rows_at_once(parts: list[Array]) -> None:
    together = np.concatenate([part.reshape(-1, 3) for part in parts])
    same(observed(parts), observe(together, "x"))


@given(st.lists(tensors(), min_size=2, max_size=6))
def test_bins_widen_as_far_as_needed_and_lose_nothing(parts: list[Array]) -> None:
    statistics = observe(parts[0], "x")
    seen = parts[0].size
    for part in parts[1:]:
        before = statistics.width
        statistics = observe(part, "x", statistics)
        seen += part.size
        assert statistics.width >= before
        assert statistics.total == seen
        assert np.frexp(statistics.width)[0] == 0.5
        assert statistics.peak <= HALF * statistics.width
        assert statistics.width == TINY or statistics.peak > HALF / 2 * statistics.width


def test_a_histogram_keeps_its_shape_when_it_grows() -> None:
    values = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    grown = observe(row(*[100.0] * 8), "x", observe(values, "x"))
    edges = np.arange(-HALF, HALF + 1) * grown.width
    wanted = np.histogram(values, edges)[0]
    # 100 is the far edge of its bin.
    wanted[np.searchsorted(edges, 100) - 1] += 8
    np.testing.assert_array_equal(grown.counts, wanted)
    assert np.count_nonzero(grown.counts) > 50


@given(st.permutations([3, 5, 5, 1]))
def test_a_last_axis_that_changes_with_the_text_holds_no_channels(lengths: list[int]) -> None:
    parts = [np.full((1, 2, n, n), n, np.float32) for n in lengths]
    statistics = observed(parts)
    np.testing.assert_array_equal(statistics.peaks, [5])
    assert statistics.total == sum(2 * n * n for n in lengths)


def test_extremes_may_be_kept_without_a_histogram() -> None:
    values = np.array([[1, -2], [0.5, 3]], np.float32)
    statistics = observe(values, "x", count=False)
    assert statistics.total == 0
    assert statistics.peak == 3
    np.testing.assert_array_equal(statistics.peaks, [1, 3])


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, Statistics]]:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(2, 7, 16)).astype(np.float32)
    found = {
        "encoder/a": observe(values, "encoder iteration 0, ffn, input"),
        "encoder/b": observe(np.abs(values) * 1e-40, "Umlaute äöü, 你好"),
        "encoder/c": observe(values * 1e30, "large", channels=False),
        "encoder/d": observe(np.zeros((1, 3), np.float32), "nothing"),
    }
    path = tmp_path / "statistics.npz"
    save_statistics(path, found, {"dataset": "sst2", "rows": [3, 1], "seed": 0})
    return path, found


def test_what_was_saved_is_loaded(saved: tuple[Path, dict[str, Statistics]]) -> None:
    path, wanted = saved
    found, origin = load_statistics(path)
    assert origin == {"dataset": "sst2", "rows": [3, 1], "seed": 0}
    assert list(found) == list(wanted)
    for name, statistics in wanted.items():
        same(found[name], statistics)


def test_calibration_can_go_on_after_loading(saved: tuple[Path, dict[str, Statistics]]) -> None:
    path, before = saved
    more = np.full((2, 16), 1e3, np.float32)
    loaded = load_statistics(path)[0]["encoder/a"]
    same(observe(more, loaded.label, loaded), observe(more, loaded.label, before["encoder/a"]))


def rewrite(path: Path, **changes: Any) -> None:
    with np.load(path) as arrays:
        contents = dict(arrays)
    for name, value in changes.items():
        contents[name] = value
        if value is None:
            del contents[name]
    np.savez_compressed(path, **contents)


def reheader(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    import json

    with np.load(path) as arrays:
        header = json.loads(arrays["header"].tobytes())
    change(header)
    rewrite(path, header=np.frombuffer(json.dumps(header).encode(), np.uint8))


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"encoder/a": 1}))


def plain_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def zip_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header", "not an array")


BREAKS: dict[str, Callable[[Path], object]] = {
    "missing": lambda p: p.unlink(),
    "folder": lambda p: (p.unlink(), p.mkdir()),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("encoder iteration 0: 1.5\n", encoding="utf-8"),
    "pickle": pickled,
    "one array": plain_array,
    "zip of text": zip_of_text,
    "foreign arrays": lambda p: np.savez(p, weights=np.zeros(3)),
    "object array": lambda p: rewrite(p, counts_0=np.array([{}, None], object)),
    "pickled header": lambda p: rewrite(p, header=np.array([{}], object)),
    "header without JSON": lambda p: rewrite(p, header=np.frombuffer(b"\xff{", np.uint8)),
    "header with a list": lambda p: rewrite(p, header=np.frombuffer(b"[1]", np.uint8)),
    "header with a number": lambda p: rewrite(p, header=np.frombuffer(b"1", np.uint8)),
    "another format": lambda p: reheader(p, lambda h: h.update(format=99)),
    "no origin": lambda p: reheader(p, lambda h: h.pop("origin")),
    "origin of text": lambda p: reheader(p, lambda h: h.update(origin="sst2")),
    "no activations": lambda p: reheader(p, lambda h: h.pop("activations")),
    "activation of text": lambda p: reheader(p, lambda h: h["activations"].append("x")),
    "one activation too many": lambda p: reheader(
        p, lambda h: h["activations"].append(h["activations"][0])
    ),
    "no width": lambda p: reheader(p, lambda h: h["activations"][0].pop("width")),
    "width of zero": lambda p: reheader(p, lambda h: h["activations"][0].update(width=0)),
    "width of nan": lambda p: reheader(p, lambda h: h["activations"][0].update(width=np.nan)),
    "width of text": lambda p: reheader(p, lambda h: h["activations"][0].update(width="wide")),
    "infinite extreme": lambda p: reheader(p, lambda h: h["activations"][0].update(maximum=np.inf)),
    "extremes swapped": lambda p: reheader(
        p, lambda h: h["activations"][0].update(minimum=2, maximum=1)
    ),
    "no counts": lambda p: rewrite(p, counts_1=None),
    "fewer counts": lambda p: rewrite(p, counts_1=np.ones(7, np.int64)),
    "counts of another type": lambda p: rewrite(p, counts_1=np.ones(2 * HALF)),
    "negative counts": lambda p: rewrite(p, counts_1=np.full(2 * HALF, -1)),
    "peaks of nan": lambda p: rewrite(p, peaks_1=np.full(16, np.nan, np.float32)),
    "peaks of text": lambda p: rewrite(p, peaks_1=np.array(["a"])),
    "peaks of a matrix": lambda p: rewrite(p, peaks_1=np.zeros((2, 2), np.float32)),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_file_that_is_not_ours_is_an_input_error(
    name: str, saved: tuple[Path, dict[str, Statistics]]
) -> None:
    path, _ = saved
    BREAKS[name](path)
    with pytest.raises(InputError, match=r"statistics\.npz.*calibrate again"):
        load_statistics(path)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    for number, write in enumerate((pickle.dumps, None)):
        path = tmp_path / f"{number}.npz"
        if write:
            path.write_bytes(write(Bomb()))
        else:
            np.savez(path, header=np.array([Bomb()], object))
        with pytest.raises(InputError):
            load_statistics(path)
    assert not (tmp_path / "ran").exists()


def test_a_truncated_file_is_an_input_error(saved: tuple[Path, dict[str, Statistics]]) -> None:
    path, _ = saved
    whole = path.read_bytes()
    for length in np.linspace(0, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            load_statistics(path)


def test_a_damaged_byte_is_found_or_harmless(saved: tuple[Path, dict[str, Statistics]]) -> None:
    path, wanted = saved
    whole = path.read_bytes()
    refused = 0
    for at in np.linspace(0, len(whole) - 1, 300).astype(int):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(at) % 8
        path.write_bytes(damaged)
        try:
            found, _ = load_statistics(path)
        except InputError:
            refused += 1
        else:
            for name, statistics in wanted.items():
                same(found[name], statistics)
    assert refused > 200
