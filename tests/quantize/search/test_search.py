"""The search: its strategy on made-up noise, and whole searches on checkpoints with outliers."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from albert_deploy.export.graph.uses import Use
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.calibration.observe import Row
from albert_deploy.quantize.calibration.texts import CalibrationConfig, Texts, read_texts
from albert_deploy.quantize.schemes.static import StaticConfig
from albert_deploy.quantize.search.search import SearchResult, search
from albert_deploy.quantize.search.strategy import Holds, strategy
from albert_deploy.quantize.search.trials import EXACT_DB, SearchConfig, Trial, Trials, read_trial
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.engines.table import open_session
from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import is_intact, read_manifest
from albert_deploy.validation.parity.difference import Difference

NAIVE: dict[str, Any] = {
    "alpha": 0.0,
    "rule": "minmax",
    "rounding": "nearest",
    "correct_bias": False,
}
# A random network's decisions mean nothing, so its gate is on the signal to noise ratio.
TINY = SearchConfig(min_agreement=None, min_sqnr_db=19.0, rounds=3)
FILES = ("calibration/search.jsonl", *(f"reports/search.{end}" for end in ("json", "md", "svg")))

Search = Callable[..., SearchResult]
pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def hard(
    make_checkpoint: Callable[..., Path],
    harden: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An exported checkpoint of six iterations with outliers; copy it, do not change it."""
    out = tmp_path_factory.mktemp("hard-export") / "out"
    checkpoint = harden(make_checkpoint(num_hidden_layers=6, seed=3))
    export(str(checkpoint), ExportConfig(), out=out)
    return out


@pytest.fixture(scope="module")
def texts(make_row: Callable[..., Row]) -> Texts:
    random = np.random.default_rng(1)
    rows = [make_row(f"row {i}", random.integers(5, 199, 4 + i % 9)) for i in range(72)]
    return Texts(rows=tuple(rows), origin={"name": "made up"})


@pytest.fixture
def directory(hard: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hard, tmp_path / "out"))


@pytest.fixture(scope="module")
def searched(
    hard: Path, texts: Texts, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SearchResult]:
    """A directory that was searched, with the result; copy it, do not change it."""
    out = Path(shutil.copytree(hard, tmp_path_factory.mktemp("searched") / "out"))
    return out, search(out, TINY, texts, StaticConfig(**NAIVE))


@pytest.fixture
def again(searched: tuple[Path, SearchResult], texts: Texts, tmp_path: Path) -> tuple[Path, Search]:
    """A copy of the searched directory, and the same search on it with other options."""
    out = Path(shutil.copytree(searched[0], tmp_path / "again"))

    def run(config: SearchConfig = TINY, **static: Any) -> SearchResult:
        return search(out, config, texts, StaticConfig(**NAIVE | static))

    return out, run


def test_reaches_a_gate_that_plain_int8_misses(searched: tuple[Path, SearchResult]) -> None:
    _, result = searched
    assert not TINY.holds(result.plain)
    assert result.held
    assert TINY.holds(result.chosen)
    assert 0 < result.kept_weight_uses <= result.weight_uses / 4
    assert result.weight_uses == 6 * 6
    assert {label.rpartition(", ")[2] for label in result.keep} == {"attention.dense"}
    assert set(result.keep) == result.chosen.kept


def test_no_trial_that_holds_keeps_fewer(searched: tuple[Path, SearchResult]) -> None:
    _, result = searched
    holding = [t for t in result.trials if TINY.holds(t)]
    assert min(len(t.kept) for t in holding) == len(result.keep)
    taken_back = [t for t in result.trials if t.kept < result.chosen.kept]
    assert taken_back
    assert not any(TINY.holds(t) for t in taken_back)


def test_writes_log_table_and_picture(searched: tuple[Path, SearchResult]) -> None:
    out, result = searched
    assert result.files == FILES
    manifest = read_manifest(out)
    assert all(is_intact(out, manifest, name) for name in FILES)
    report = json.loads((out / FILES[1]).read_text(encoding="utf-8"))
    assert report["keep"] == list(result.keep)
    assert [row["chosen"] for row in report["pareto"]].count(True) == 1
    assert len(report["trials"]) == len(result.trials)
    measured = [row for row in report["sensitivity"] if row["sqnr_db"] is not None]
    assert min(measured, key=lambda row: row["sqnr_db"])["label"] == "attention.dense"
    people = (out / FILES[2]).read_text(encoding="utf-8")
    assert "| chosen |" in people
    assert "(search.svg)" in people
    assert all(f"- {label}" in people for label in result.keep)
    picture = (out / FILES[3]).read_text(encoding="utf-8")
    assert picture.startswith("<?xml")
    log = (out / FILES[0]).read_text(encoding="utf-8").splitlines()
    assert len(log) == 1 + len(result.trials)
    assert json.loads(log[1])["step"] == "everything rounded"


def test_pareto_rows_pay_for_what_they_keep(searched: tuple[Path, SearchResult]) -> None:
    rows = searched[1].pareto
    assert [row["kept"] for row in rows] == sorted(row["kept"] for row in rows)
    assert [row["sqnr_db"] for row in rows] == sorted(row["sqnr_db"] for row in rows)
    assert rows[0]["kept"] == 0
    assert all(row["bytes"] > 0 and row["latency_ms"] > 0 for row in rows)


def test_resumes_from_its_log(
    searched: tuple[Path, SearchResult], again: tuple[Path, Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, run = again
    log = (out / FILES[0]).read_bytes()
    ran = _counted(monkeypatch)
    assert run().trials == searched[1].trials
    assert ran == []
    assert (out / FILES[0]).read_bytes() == log


def test_resumes_behind_a_torn_line(
    searched: tuple[Path, SearchResult], again: tuple[Path, Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, run = again
    path = out / FILES[0]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    ran = _counted(monkeypatch)
    assert run().keep == searched[1].keep
    assert len(ran) == 1
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_other_options_start_another_log(again: tuple[Path, Search]) -> None:
    out, run = again
    result = run(replace(TINY, budget=2), rule="percentile")
    lines = (out / FILES[0]).read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["options"]["rule"] == "percentile"
    assert len(lines) == 1 + len(result.trials) == 3


def test_says_so_when_the_budget_is_spent(again: tuple[Path, Search]) -> None:
    _, run = again
    result = run(replace(TINY, budget=3))
    assert not result.held
    assert len(result.trials) == 3
    assert "budget of 3 trials is spent" in result.message
    assert "wanted an SQNR of 19.0 dB" in result.message


def test_says_so_when_the_weights_alone_miss_the_gate(again: tuple[Path, Search]) -> None:
    _, run = again
    result = run(replace(TINY, min_sqnr_db=190.0))
    assert not result.held
    assert "the weights alone miss it" in result.message


def test_says_so_when_too_few_may_be_kept(again: tuple[Path, Search]) -> None:
    _, run = again
    result = run(replace(TINY, most_kept=0.03))
    assert not result.held
    assert len(result.keep) <= 1
    assert "raise most_kept" in result.message


def test_keeps_nothing_where_plain_holds(again: tuple[Path, Search]) -> None:
    out, run = again
    result = run(replace(TINY, min_sqnr_db=-100.0))
    assert result.held
    assert result.keep == ()
    assert len(result.trials) == 1
    assert "not needed" in (out / FILES[3]).read_text(encoding="utf-8")


def test_what_is_kept_already_stays(again: tuple[Path, Search]) -> None:
    fixed = "encoder iteration 2, ffn"
    _, run = again
    result = run(keep=(fixed,))
    assert result.held
    assert fixed in result.keep
    assert fixed not in result.chosen.kept


def test_the_variant_made_with_it_holds_too(
    searched: tuple[Path, SearchResult], directory: Path, tmp_path: Path
) -> None:
    result = searched[1]
    lines = [f"{chr(97 + i % 26)} film was {chr(97 + i // 26)} long" for i in range(64)]
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    calibration = CalibrationConfig(name="text", path=file, samples=64)
    ratios = {}
    for keep in ((), result.keep):
        config = QuantizeConfig(
            variants=("int8-qdq",), calibration=calibration, static=NAIVE | {"keep": keep}
        )
        manifest = quantize(directory, config)
        rows = read_texts(directory, manifest, calibration).rows
        ratios[keep] = _sqnr(directory, rows)
    kept = [p for row in manifest["variants"]["int8-qdq"]["coverage"] for p in row["real_inputs"]]
    assert set(result.keep) <= set(kept)
    assert ratios[result.keep] > ratios[()] + 2


@pytest.mark.parametrize("variant", ["int8-fp16", "fp8-qdq"])
def test_searches_every_static_variant(directory: Path, texts: Texts, variant: str) -> None:
    format_ = {"format": "fp8"} if variant == "fp8-qdq" else {"half": True}
    static = StaticConfig(**NAIVE | format_, products=())
    result = search(
        directory, replace(TINY, variant=variant, min_sqnr_db=190.0, budget=2), texts, static
    )
    assert result.files[0] == f"calibration/search-{variant}.jsonl"
    assert math.isfinite(result.plain.sqnr_db)
    assert result.trials[1].sqnr_db > result.plain.sqnr_db


def test_refuses_too_few_texts(directory: Path, texts: Texts) -> None:
    few = Texts(rows=texts.rows[:40], origin=texts.origin)
    with pytest.raises(InputError, match="got 40 calibration texts"):
        search(directory, TINY, few, StaticConfig(**NAIVE))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"budget": 0}, "budget is 0"),
        ({"most_kept": 0.0}, "most_kept is 0.0"),
        ({"min_agreement": 1.5}, "min_agreement is 1.5"),
        ({"min_agreement": None, "min_sqnr_db": None}, "no gate"),
        ({"variant": "int7"}, "int7"),
    ],
)
def test_refuses_options_that_mean_nothing(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        SearchConfig(**wrong)


def test_a_trial_reads_back_what_it_wrote() -> None:
    labels = ["a", "b", "c"]
    for kept in (frozenset(), frozenset("b"), frozenset("abc")):
        trial = _trial(kept, 12.5)
        assert read_trial(json.loads(json.dumps(trial.to_json(labels))), labels) == trial


@pytest.mark.parametrize("seed", range(5))
def test_strategy_finds_the_fewest_under_noise_that_adds_up(seed: int) -> None:
    random = np.random.default_rng(seed)
    uses = [_point(op, i) for op in ("query", "ffn", "ffn_output") for i in range(8)]
    noise = dict(zip((p.label for p in uses), 10 ** random.uniform(-8, -2, 24), strict=True))
    allowed = 1e-3

    def holds(trial: Trial) -> bool:
        return trial.noise <= allowed

    done = _answer(uses, noise, holds, most=12)
    left, fewest = sum(noise.values()), 0
    for value in sorted(noise.values(), reverse=True):
        if left <= allowed:
            break
        left, fewest = left - value, fewest + 1
    found = min(len(t.kept) for t in done if holds(t) and len(t.kept) <= 12)
    # Operators that need not be touched are not measured, so that one more may be kept.
    assert fewest <= found <= fewest + 1


def test_strategy_does_not_measure_iterations_of_harmless_operators() -> None:
    uses = [_point(op, i) for op in ("query", "ffn") for i in range(12)]
    noise = {p.label: 1e-2 if p.label.endswith("3, ffn") else 1e-7 for p in uses}
    done = _answer(uses, noise, lambda t: t.noise <= 1e-3, most=12)
    assert min(done, key=lambda t: (t.noise > 1e-3, len(t.kept))).kept == {uses[15].label}
    assert not any("query" in t.step for t in done if t.step.startswith("only encoder"))


@pytest.mark.slow
def test_reaches_the_gate_on_the_deep_hard_checkpoint(
    shared: Path, harden: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(str(harden(shared / "checkpoints/albert-deep-sst2")), ExportConfig(), out=out)
    data = CalibrationConfig(name="sst2", path=shared / "data/glue/SST-2", samples=128)
    config = SearchConfig(budget=60, rounds=3)
    result = search(out, config, read_texts(out, read_manifest(out), data), StaticConfig(**NAIVE))
    assert not config.holds(result.plain)
    assert result.plain.agreement is not None
    assert result.plain.agreement < 0.995
    assert result.held
    assert len(result.trials) < config.budget
    assert result.weight_uses == 12 * 6
    assert 0 < result.kept_weight_uses <= result.weight_uses / 4
    manifest = read_manifest(out)
    assert all(is_intact(out, manifest, name) for name in FILES)


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by the step of each trial that really runs."""
    ran: list[str] = []
    real = Trials.run

    def run(self: Trials, step: str, kept: frozenset[str], engine: str) -> Trial:
        ran.append(step)
        return real(self, step, kept, engine)

    monkeypatch.setattr(Trials, "run", run)
    return ran


def _sqnr(directory: Path, rows: tuple[Row, ...]) -> float:
    difference = Difference(None)
    with open_session(directory) as source, open_session(directory, variant="int8-qdq") as variant:
        for row in rows:
            difference.add(source.run(row.feeds)["logits"], variant.run(row.feeds)["logits"])
    return difference.sqnr_db


def _answer(uses: list[Use], noise: dict[str, float], holds: Holds, most: int) -> list[Trial]:
    """Run a strategy where each rounded product adds its own noise."""
    done: list[Trial] = []
    requests = strategy(uses, holds, most)
    try:
        request = next(requests)
        while True:
            total = 1e-12 + sum(v for label, v in noise.items() if label not in request.kept)
            done.append(_trial(request.kept, -10 * math.log10(total), request.step))
            request = requests.send(done[-1])
    except StopIteration:
        return done


def _trial(kept: frozenset[str], sqnr_db: float, step: str = "a test") -> Trial:
    return Trial(
        step=step,
        engine="ort",
        kept=kept,
        sqnr_db=min(sqnr_db, EXACT_DB),
        agreement=None,
        size_bytes=1,
        seconds=0.0,
    )


def _point(operator: str, iteration: int) -> Use:
    label = f"encoder iteration {iteration}, {operator}"
    return Use(node=label, label=label, weight=operator, inputs=(label,), iteration=iteration)
