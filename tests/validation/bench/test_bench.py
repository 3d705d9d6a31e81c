import json
import re
import statistics

import pytest
from click.testing import CliRunner

from albert_deploy.export.samples.random import GEOMETRIES, random_checkpoint
from albert_deploy.export.step import ExportConfig, export
from albert_deploy.quantize.step import QuantizeConfig, quantize
from albert_deploy.runtime.engines.table import choose_engine
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.manifest import is_intact, read_manifest, write_manifest
from albert_deploy.scripts import bench as command
from albert_deploy.scripts.bench import bench_directory, bench_random
from albert_deploy.scripts.cli.main import cli
from albert_deploy.validation.bench.bench import add_ratios, add_shares, bench
from albert_deploy.validation.bench.config import BenchConfig
from albert_deploy.validation.bench.record import latencies, record
from albert_deploy.validation.bench.report import tables, text

pytestmark = pytest.mark.medium

ALL = ["torch", "fp32@ort", "fp32@openvino", "fp16@ort", "int8@ort", "quantize-dynamic@ort"]
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
QUICK = BenchConfig(
    lengths=(8, 32, 128),
    datasets=(("sst2", None),),
    dataset_rows=3,
    threads=(1, 0),
    repeats=3,
    warmup=1,
    loads=2,
    contenders=tuple(ALL),
    peak_seconds=0.001,
)
OURS = {"repeats": 1, "loads": 1, "contenders": ("*@ort",), "peak_seconds": 0}


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint):
    return make_checkpoint()


@pytest.fixture(scope="module")
def directory(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "deployment"
    export(str(checkpoint), ExportConfig(), out=out)
    quantize(out, QuantizeConfig())
    return out


@pytest.fixture(scope="module")
def report(directory):
    return bench(directory, QUICK)


def test_report_has_every_contender_column_and_run(report):
    assert list(report["contenders"]) == ALL
    assert report["lengths"] == [8, 32]
    assert report["left_out"] == [128]
    assert list(report["columns"]) == ["8", "32", "sst2"]
    assert report["columns"]["8"]["tokens"] == [8]
    lengths = report["columns"]["sst2"]["tokens"]
    assert len(lengths) == 3
    assert lengths == sorted(lengths)
    assert report["threads"] == [run["threads"] for run in report["runs"]] == [1, 0]
    for run in report["runs"]:
        assert run["rounds"] == 3
        assert list(run["contenders"]) == ALL
        for row in run["contenders"].values():
            assert list(row["latency"]) == ["8", "32", "sst2"]
            assert len(row["load_times_ms"]) == 2
            assert row["load_ms"] == statistics.median(row["load_times_ms"]) > 0
    assert all(c["bytes"] > 0 for c in report["contenders"].values())


def test_ours_and_peers(report):
    ours = [name for name, c in report["contenders"].items() if c["ours"]]
    assert ours == ["fp16@ort", "int8@ort"]
    kinds = {name: c["data_type"] for name, c in report["contenders"].items()}
    assert [n for n, kind in kinds.items() if kind == "int8"] == ["int8@ort", ALL[-1]]
    for run in report["runs"]:
        assert set(run["best_peer"]) == set(report["columns"])
        assert not set(run["best_peer"].values()) & set(ours)


def test_ratios_follow_from_raw_times(report):
    assert report["baseline"] == "torch"
    for run in report["runs"]:
        base = run["contenders"][report["baseline"]]["latency"]
        for row in run["contenders"].values():
            for column, cell in row["latency"].items():
                peer = run["contenders"][run["best_peer"][column]]["latency"][column]
                times, reference = cell["times_ms"], base[column]["times_ms"]
                assert len(times) == run["rounds"]
                assert min(times) > 0
                assert cell["median_ms"] == statistics.median(times)
                assert cell["min_ms"] == min(times)
                assert cell["ratio_median"] == pytest.approx(
                    statistics.median(reference) / statistics.median(times)
                )
                assert cell["ratio_min"] == pytest.approx(min(reference) / min(times))
                assert cell["peer_ratio_median"] == pytest.approx(
                    peer["median_ms"] / cell["median_ms"]
                )
                assert cell["peer_ratio_min"] == pytest.approx(peer["min_ms"] / cell["min_ms"])


def test_shares_of_the_peak_follow_from_operations(report):
    for run in report["runs"]:
        assert {"int8", "f32"} <= set(run["peaks"])
        for name, row in run["contenders"].items():
            peak = run["peaks"][report["contenders"][name]["data_type"]]["gops"]
            for column, cell in row["latency"].items():
                gops = report["columns"][column]["operations"] / cell["median_ms"] / 1e6
                assert cell["gops"] == pytest.approx(gops)
                assert cell["peak_share"] == pytest.approx(gops / peak)


def test_report_names_the_bytes_it_measured(report, directory):
    manifest = read_manifest(directory)
    for name in ("fp32@ort", "fp16@ort", "int8@ort"):
        contender = report["contenders"][name]
        assert contender["sha256"] == manifest["files"][contender["file"]]["sha256"]
        assert contender["bytes"] == (directory / contender["file"]).stat().st_size
    source = report["contenders"]["torch"]
    assert source["sha256"] == report["source"]["sha256"] == manifest["source"]["sha256"]
    assert source["bytes"] == manifest["parameter_bytes"]


def test_text_shows_all_of_it(report):
    shown = text(report)
    for word in (
        "torch eager",
        "fp32, ORT",
        "fp32, OpenVINO",
        "int8, ORT",
        "quantize_dynamic, ORT",
    ):
        assert shown.count(f"| {word} ") == 6
    assert "left out: lengths 128; the model takes at most 64 tokens" in shown
    assert f"{report['machine']['cores']} cores" in shown
    assert "1 thread, 3 interleaved rounds" in shown
    assert f"{report['machine']['cores']} threads, 3 interleaved rounds" in shown
    assert "sst2: mean of 3 texts of " in shown
    assert shown.count("best peer at 8 tokens: ") == 2
    assert shown.count("peaks measured in this run, GOPS: int8 ") == 2


def test_table_holds_rounded_numbers(report):
    run = report["runs"][0]
    head, _, *rows = tables(report, run, "min")[0].splitlines()
    assert [cell.strip() for cell in head.split("|")[2:-1]] == [
        "MB",
        "load ms",
        "8 tokens",
        "32 tokens",
        "sst2",
    ]
    assert len(rows) == len(ALL)
    for line, name in zip(rows, report["contenders"], strict=True):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[0] == report["contenders"][name]["label"]
        shown = re.findall(r"[\d.]+", cells[3])
        cell = run["contenders"][name]["latency"]["8"]
        assert float(shown[0]) == pytest.approx(cell["min_ms"], rel=0.05, abs=0.01)
        assert float(shown[1]) == pytest.approx(cell["ratio_min"], abs=0.01)
        assert float(shown[2]) == pytest.approx(cell["peer_ratio_min"], abs=0.01)


def test_record_writes_reports_and_enters_them(report, directory):
    before = read_manifest(directory)["files"]
    paths = record(directory, report)
    manifest = read_manifest(directory)
    assert json.loads(paths[0].read_text(encoding="utf-8")) == report
    assert paths[1].read_text(encoding="utf-8").startswith("<?xml")
    for name in ("reports/bench.json", "reports/bench.svg"):
        assert is_intact(directory, manifest, name)
    assert before.items() <= manifest["files"].items()
    assert manifest["steps"]["bench"] == {"threads": [1, 0], "rounds": [3, 3]}
    column = list(report["columns"])[-1]
    for name in manifest["variants"]:
        engine = choose_engine(manifest, name)
        timed = [
            n
            for n, c in report["contenders"].items()
            if (c["variant"], c["engine"]) == (name, engine)
        ]
        assert len(timed) == 1
        cell = report["runs"][0]["contenders"][timed[0]]["latency"][column]
        latency = manifest["variants"][name]["latency"]
        assert latency["median_ms"] == cell["median_ms"] <= latency["p95_ms"]
        assert latency["threads"] == 1
        assert latency["runs"] == 3


def test_a_latency_of_another_file_is_not_taken(report, directory):
    changed = json.loads(json.dumps(report))
    for contender in changed["contenders"].values():
        contender["sha256"] = "0" * 64
    assert latencies(read_manifest(directory), report)
    assert latencies(read_manifest(directory), changed) == {}


def test_bench_writes_nothing_into_directory(directory):
    def state():
        return {p: p.stat().st_mtime_ns for p in directory.rglob("*")}

    before = state()
    bench(directory, BenchConfig(lengths=(8,), **OURS))
    assert state() == before


@pytest.mark.parametrize(
    "settings",
    [
        {"lengths": ()},
        {"lengths": (8, 0)},
        {"threads": ()},
        {"threads": (1, -1)},
        {"dataset_rows": 0},
        {"peak_seconds": -1.0},
        {"repeats": 0},
        {"loads": -1},
        {"batches": ()},
        {"batches": (0,)},
        {"warmup": -1},
        {"seconds": -1.0},
        {"variants": ("int3",)},
    ],
)
def test_bad_configuration_is_refused(settings):
    with pytest.raises(InputError):
        BenchConfig(**settings)


def cell(median, least=0.0):
    return {"error": None, "median_ms": median, "min_ms": least or median}


def test_ratios_are_to_the_baseline_and_to_the_best_peer():
    cells = {
        "torch": cell(50.0, 40.0),
        "fp32@ort": cell(40.0, 20.0),
        "int8@ort": cell(20.0, 10.0),
        "bad": {"error": "no"},
    }
    assert add_ratios(cells, "torch", ["torch", "fp32@ort", "bad"]) == "fp32@ort"
    found = cells["int8@ort"]
    assert (found["ratio_median"], found["ratio_min"]) == (2.5, 4)
    assert (found["peer_ratio_median"], found["peer_ratio_min"]) == (2, 2)
    assert cells["bad"] == {"error": "no"}
    alone = {"int8@ort": cell(20.0)}
    assert add_ratios(alone, "torch", []) is None
    assert alone["int8@ort"]["ratio_min"] is alone["int8@ort"]["peer_ratio_min"] is None


def test_shares_are_of_the_peak_of_the_own_data_type():
    kinds = {"torch": "f32", "int8@ort": "int8", "fp32@openvino-bf16": "bf16"}
    run = {
        "peaks": {"int8": {"gops": 400.0}, "f32": {"gops": 100.0}},
        "contenders": {n: {"latency": {"8": cell(10.0)}} for n in kinds},
    }
    report = {
        "contenders": {name: {"data_type": kind} for name, kind in kinds.items()},
        "columns": {"8": {"operations": 5e8}},
    }
    add_shares(run, report)
    cells = {name: row["latency"]["8"] for name, row in run["contenders"].items()}
    assert [c["gops"] for c in cells.values()] == [50.0, 50.0, 50.0]
    assert [c["peak_share"] for c in cells.values()] == [0.5, 0.125, None]
    report["columns"]["8"]["operations"] = None
    add_shares(run, report)
    assert cells["torch"]["gops"] is cells["torch"]["peak_share"] is None


def test_source_that_is_gone_is_left_out(directory, tmp_path, progress):
    copy = copy_directory(directory, tmp_path / "copy")
    manifest = read_manifest(copy)
    manifest["source"]["path"] = str(tmp_path / "gone")
    write_manifest(copy, manifest)
    settings = OURS | {"contenders": ("torch", "fp32@ort", "int8@ort")}
    report = bench(copy, BenchConfig(lengths=(8,), **settings))
    assert list(report["contenders"]) == ["fp32@ort", "int8@ort"]
    assert report["baseline"] == "fp32@ort"
    assert "torch eager: left out" in report["notes"][0]
    assert report["notes"][0] in progress.messages
    assert "times as fast as fp32, ORT" in text(report)
    with pytest.raises(InputError, match="nowhere"):
        bench(copy, BenchConfig(lengths=(8,), repeats=1, source=str(tmp_path / "nowhere")))


def test_a_peer_that_fails_is_left_out(directory, monkeypatch):
    def fail(*_):
        raise ValueError("no luck")

    monkeypatch.setattr("onnxruntime.quantization.quantize_dynamic", fail)
    report = bench(directory, BenchConfig(lengths=(8,), **OURS))
    assert list(report["contenders"]) == ["fp32@ort", "fp16@ort", "int8@ort"]
    assert report["notes"] == ["quantize_dynamic, ORT: left out, ValueError: no luck"]


def test_changed_or_absent_variant_is_refused(directory, tmp_path):
    copy = copy_directory(directory, tmp_path / "copy")
    with (copy / "onnx/model_int8.onnx").open("ab") as file:
        file.write(b" ")
    config = BenchConfig(lengths=(8,), variants=("int8",), **OURS)
    with pytest.raises(ContractError, match=r"model_int8\.onnx"):
        bench(copy, config)
    manifest = read_manifest(copy)
    del manifest["variants"]["int8"]
    write_manifest(copy, manifest)
    with pytest.raises(InputError, match="holds no variant int8; it holds: fp32, fp16"):
        bench(copy, config)


def test_command_prints_and_writes(directory, tmp_path, monkeypatch):
    monkeypatch.setattr("albert_deploy.validation.bench.bench.peaks", lambda *_, **__: {})
    copy, out = copy_directory(directory, tmp_path / "copy"), tmp_path / "kept.json"
    arguments = ["bench", str(copy), "--lengths", "4,8", "--repeats", "1", "--no-torch"]
    arguments += ["--contenders", "fp32@ort,int8@ort", "--dataset", "sst2", "--threads", "1"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "| int8, ORT " in result.stdout
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert kept == json.loads((copy / "reports/bench.json").read_text(encoding="utf-8"))
    assert kept["lengths"] == [4, 8]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["DIR", "--random", "base"],
        ["DIR", "--lengths", "8,many"],
        ["DIR", "--threads", "some"],
        ["--random", "base", "--tune"],
        ["DIR", "--source", "x", "--no-torch"],
        ["--random", "base", "--source", "x"],
        ["DIR", "--models", "x"],
        ["--random", "base", "--prepare"],
        ["DIR", "--gpu", "--tune"],
        ["DIR", "--gpu", "--threads", "2"],
    ],
)
def test_wrong_usage(arguments):
    assert CliRunner().invoke(cli, ["bench", *arguments]).exit_code == 2


def test_what_was_measured_is_shown_though_it_cannot_be_written(directory, monkeypatch):
    def fail(*_):
        raise InputError("read-only")

    monkeypatch.setattr(command, "record", fail)
    shown = []
    config = BenchConfig(lengths=(8,), **OURS)
    with pytest.raises(InputError, match="read-only"):
        bench_directory(directory, config, show=shown.append)
    assert "| int8, ORT " in shown[0]


def test_random_weights_in_a_geometry(tmp_path, monkeypatch):
    monkeypatch.setitem(GEOMETRIES, "tiny", TINY | {"intermediate_size": 64})
    shown, out = [], tmp_path / "kept.json"
    config = BenchConfig(lengths=(8, 512), warmup=0, **OURS)
    report = bench_random("tiny", config, out=out, show=shown.append)
    assert report["lengths"] == [8, 512]
    assert report["source"]["path"] == "ALBERT-tiny geometry, random weights"
    assert json.loads(out.read_text(encoding="utf-8")) == report
    assert "ALBERT-tiny" in shown[0]
    assert out.with_suffix(".svg").is_file()


def test_unknown_geometry_lists_the_known(tmp_path):
    with pytest.raises(InputError, match="'huge'; use one of: base, large, xlarge, xxlarge"):
        random_checkpoint("huge", out=tmp_path / "x")


def copy_directory(source, target):
    for path in source.rglob("*"):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    return target
