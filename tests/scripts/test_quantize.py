"""``quantize`` and ``--require-size`` on the command line: what works, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from folders import write_sst2

from albert_deploy.quantize.step import STATISTICS
from albert_deploy.runtime.contract import VARIANTS
from albert_deploy.runtime.errors import InputError, PerformanceError
from albert_deploy.runtime.manifest import read_manifest
from albert_deploy.scripts import release as steps
from albert_deploy.scripts.cli.main import main
from albert_deploy.scripts.release import FAILED_SUFFIX
from albert_deploy.validation.bench import bench as latency
from albert_deploy.validation.bench.config import BenchConfig

if TYPE_CHECKING:
    from tests.scripts.conftest import Cli

USAGE, BAD_INPUT, PERFORMANCE = 2, InputError.exit_code, PerformanceError.exit_code
QDQ = VARIANTS["int8-qdq"].file
WORDS = ("the", "a", "film", "river", "is", "was", "long", "warm", "who", "what")


def write_split(file: Path, first: int) -> None:
    texts = [f"the {WORDS[i % 10]} {WORDS[(i + first) % 7]} {i}" for i in range(first, first + 48)]
    write_sst2(file, texts)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight rows of SST-2 for each split; tests do not change them."""
    folder = tmp_path_factory.mktemp("sst2")
    write_split(folder / "train.tsv", 0)
    write_split(folder / "dev.tsv", 100)
    return folder


@pytest.fixture(scope="module")
def made(exported: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``int8-qdq``; tests copy it before they touch it."""
    out = Path(shutil.copytree(exported, tmp_path_factory.mktemp("made") / "out"))
    main(["quantize", str(out), "--variants", "int8-qdq", "--calibration", f"sst2={data}"])
    return out


@pytest.fixture
def quantized(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "quantized"))


def test_static_variants_need_texts(cli: Cli, deployed: Path) -> None:
    arguments = ("quantize", deployed, "--variants", "int8,int8-qdq")
    hints = ("int8-qdq needs texts", "--calibration NAME=PATH", "text=FILE")
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=deployed)


def test_calibration_makes_them(cli: Cli, deployed: Path, data: Path) -> None:
    arguments = ("quantize", deployed, "--variants", "int8-qdq", "--calibration", f"sst2={data}")
    result = cli(*arguments, "--samples", "40", "--seed", "3")
    assert result.code == 0, result.err
    assert "int8-qdq: " in result.out
    entry = read_manifest(deployed)["variants"]["int8-qdq"]
    assert entry["calibration"]["file"] == STATISTICS
    assert entry["calibration"]["dataset"]["texts"] == 40
    assert entry["calibration"]["dataset"]["seed"] == 3
    assert (deployed / STATISTICS).is_file()
    assert "up to date" in cli(*arguments, "--samples", "40", "--seed", "3").out
    # A later run takes what this one left.
    assert "up to date" in cli("quantize", deployed, "--variants", "int8-qdq").out
    assert "up to date" not in cli(*arguments).out


def test_options_reach_the_scheme(cli: Cli, deployed: Path, data: Path) -> None:
    label = "encoder iteration 1, ffn"
    arguments = ("quantize", deployed, "--variants", "int8-qdq", "--calibration", f"sst2={data}")
    options = ("--ranges", "minmax", "--alpha", "0", "--rounding", "nearest", "--keep", label)
    result = cli(*arguments, *options)
    assert result.code == 0, result.err
    entry = read_manifest(deployed)["variants"]["int8-qdq"]
    made_from = entry["made_from"]["scheme"]["options"]
    assert made_from["rule"] == entry["calibration"]["rule"] == "minmax"
    assert made_from["alpha"] == 0
    assert made_from["rounding"] == "nearest"
    assert made_from["keep"] == [label]
    assert sum(label in row["real_inputs"] for row in entry["coverage"]) == 1


@pytest.mark.medium
def test_a_sample_brings_its_texts(cli: Cli, out: Path) -> None:
    assert cli("export", "sample-sst2", "--out", out).code == 0
    result = cli("quantize", out, "--variants", "int8-qdq")
    assert result.code == 0, result.err
    dataset = read_manifest(out)["variants"]["int8-qdq"]["calibration"]["dataset"]
    assert (dataset["name"], dataset["file"], dataset["texts"]) == ("sst2", "train.tsv", 256)


REFUSED: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {
    "rule": (BAD_INPUT, ("--ranges", "widest"), ("'widest'", "mse", "minmax", "entropy")),
    "alpha": (BAD_INPUT, ("--alpha", "1.5"), ("alpha is 1.5; it must be from 0 to 1",)),
    "rounding": (BAD_INPUT, ("--rounding", "up"), ("'up'; use nearest or compensated",)),
    "keep": (
        BAD_INPUT,
        ("--keep", "encoder iteration 99, ffn"),
        ("no product is called encoder iteration 99, ffn; they are: ", "iteration 2, ffn_output"),
    ),
    "few samples": (BAD_INPUT, ("--samples", "8"), ("--samples 32", "--allow-few-samples")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_option_changes_nothing(cli: Cli, quantized: Path, data: Path, name: str) -> None:
    code, options, hints = REFUSED[name]
    arguments = ("quantize", quantized, "--variants", "int8-qdq", "--calibration", f"sst2={data}")
    cli.refuses(code, *arguments, *options, hints=hints, out=quantized)


@pytest.mark.parametrize(
    "options",
    [("--alpha", "much"), ("--samples", "0"), ("--budget", "0"), ("--seed", "one")],
    ids=lambda options: options[0],
)
def test_an_option_of_the_wrong_kind_is_usage(
    cli: Cli, quantized: Path, options: tuple[str, str]
) -> None:
    before = cli.state(quantized)
    result = cli("quantize", quantized, "--variants", "int8-qdq", *options)
    assert result.code == USAGE
    assert options[0] in result.err
    assert cli.state(quantized) == before


CALIBRATIONS: dict[str, tuple[str, ...]] = {
    "imdb=here": ("unknown calibration data 'imdb'; use one of: ", "sst2", "text", "statistics"),
    "sst2": ("--calibration sst2 needs the place of the data: sst2=PATH",),
    "sst2=": ("write sst2=PATH",),
    "text=/no/such/file": ("cannot read /no/such/file", "text=FILE with a text per line in UTF-8"),
    "sst2=/no/such/folder": ("does not exist; give sst2=PATH", "train.tsv"),
    "squad=/no/such": ("squad is data for question-answering", "text=FILE"),
    "statistics=/no/such.npz": ("/no/such.npz",),
}


@pytest.mark.parametrize("given", CALIBRATIONS)
def test_bad_calibration_data_changes_nothing(cli: Cli, quantized: Path, given: str) -> None:
    arguments = ("quantize", quantized, "--variants", "int8-qdq", "--calibration", given)
    cli.refuses(BAD_INPUT, *arguments, hints=CALIBRATIONS[given], out=quantized)


@pytest.mark.medium
def test_the_evaluation_split_is_refused_unless_asked(
    cli: Cli, quantized: Path, data: Path
) -> None:
    given = f"sst2={data / 'dev.tsv'}"
    arguments = ("quantize", quantized, "--variants", "int8-qdq", "--calibration", given)
    hints = ("is the evaluation split", "--allow-evaluation-split")
    cli.refuses(BAD_INPUT, *arguments, hints=hints, out=quantized)
    assert cli(*arguments, "--allow-evaluation-split").code == 0
    # Nor does such a variant pass as judged.
    judged = ("validate", quantized, "--dataset", f"sst2={data}")
    hints = ("int8-qdq had the ranges set on", "the very rows", "--allow-calibration-rows")
    cli.refuses(BAD_INPUT, *judged, hints=hints, out=quantized)
    result = cli(*judged, "--allow-calibration-rows")
    assert result.code != BAD_INPUT, result.err
    report = json.loads((quantized / "reports/validation.json").read_text(encoding="utf-8"))
    assert report["variants"]["int8-qdq"]["calibration"]["dataset"]["file"] == "dev.tsv"


@pytest.mark.medium
def test_calibrated_on_train_it_is_judged_on_dev(cli: Cli, quantized: Path, data: Path) -> None:
    result = cli("validate", quantized, "--dataset", f"sst2={data}")
    assert result.code != BAD_INPUT, result.err
    report = json.loads((quantized / "reports/validation.json").read_text(encoding="utf-8"))
    assert report["variants"]["int8-qdq"]["coverage"]["exceptions"] is not None


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure as little as the verdict needs: times mean nothing here."""

    def bench(directory: Path, config: BenchConfig, **options: Any) -> dict[str, Any]:
        less = {"repeats": 1, "warmup": 0, "loads": 1, "seconds": 0.1, "peak_seconds": 0.0}
        contenders = ("fp32@ort", "int8@ort")
        return latency.bench(directory, replace(config, contenders=contenders, **less), **options)

    monkeypatch.setattr(steps, "bench", bench)


@pytest.mark.medium
@pytest.mark.usefixtures("brief")
def test_a_variant_that_is_too_large_fails_and_spares_the_good_release(
    cli: Cli, first: Path, second: Path, out: Path, reviews: Path
) -> None:
    gate = reviews / "gate.toml"
    gate.write_text('[statistics]\nundecided = "pass"\n')  # Eight rows decide nothing.
    arguments = ("--variants", "int8", "--dataset", f"sst2={reviews}", "--lengths", "8")
    arguments += ("--gate", str(gate))
    result = cli("release", first, "--out", out, *arguments, "--require-speedup", "0.0001")
    assert result.code == 0, result.err
    assert (out / "reports/bench.json").is_file()
    before = cli.state(out)
    result = cli("release", second, "--out", out, *arguments, "--force", "--require-size", "0.01")
    result.check_refusal(PERFORMANCE, ("int8 has ", "of fp32's bytes", "wanted at most 0.01"))
    assert cli.state(out) == before
    failed = out.with_name(out.name + FAILED_SUFFIX)
    assert read_manifest(failed)["source"]["path"] == str(second)
    assert cli.strays(out) == []
