"""A bundle holds what deployment needs and nothing else, the same bytes each time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import contents

from albert_deploy.export.graph import file as onnx_file
from albert_deploy.runtime import load
from albert_deploy.runtime.bundle import BOM, CARD, LISTING, check_bundle
from albert_deploy.runtime.engines.table import open_session
from albert_deploy.runtime.errors import (
    AccuracyError,
    ContractError,
    InputError,
    ParityError,
    UndecidedError,
)
from albert_deploy.runtime.manifest import (
    MANIFEST_NAME,
    file_record,
    read_manifest,
    write_json,
    write_manifest,
)
from albert_deploy.scripts.bundle import card as bundle_card
from albert_deploy.scripts.bundle.choice import EPOCH_VARIABLE, REPORT
from albert_deploy.scripts.bundle.step import FORMATS, BundleConfig, bundle
from albert_deploy.scripts.cli import main as cli
from albert_deploy.validation.gate.baseline import SCHEMA

pytestmark = pytest.mark.medium

PLAIN = BundleConfig()
ALWAYS = {CARD, BOM, MANIFEST_NAME, "config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def released(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that passed a real validation; tests copy it before they touch it."""
    out = tmp_path_factory.mktemp("released") / "out"
    cli.main(["release", str(first), "--out", str(out), "--variants", "fp32,int8"])
    return out


@pytest.fixture
def passed(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "passed"))


def report_of(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the validation's report, as another validation would."""
    report = json.loads((directory / REPORT).read_text())
    change(report)
    write_json(directory / REPORT, report)
    manifest = read_manifest(directory)
    manifest["files"][REPORT] = file_record(directory / REPORT)
    write_manifest(directory, manifest)


def failing(kind: str, verdict: str = "fail") -> Callable[[dict[str, Any]], None]:
    def change(report: dict[str, Any]) -> None:
        report["verdict"] = report["variants"]["int8"]["verdict"] = verdict
        check = {"kind": kind, "name": "n", "verdict": verdict, "message": "it was <too> far"}
        report["variants"]["int8"]["checks"] = [check]

    return change


def test_the_same_directory_gives_the_same_bytes(
    passed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "one", tmp_path / "deeper" / "another"]
    bundle(passed, PLAIN, out=places[0])
    for path in passed.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    monkeypatch.chdir(passed.parent)
    old = os.umask(0o077)
    try:
        bundle(Path(passed.name), PLAIN, out=places[1])
    finally:
        os.umask(old)
    assert contents(places[0]) == contents(places[1])
    archives = [tmp_path / "one.tar.gz", tmp_path / "deeper" / "another.tar.gz"]
    for place in archives:
        bundle(passed, BundleConfig(form="archive"), out=place)
    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_a_bundle_of_a_bundle_is_the_same(passed: Path, tmp_path: Path) -> None:
    bundle(passed, PLAIN, out=tmp_path / "one")
    bundle(tmp_path / "one", PLAIN, out=tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_only_what_deployment_needs_is_in_it(passed: Path, tmp_path: Path) -> None:
    (passed / "notes.txt").write_text("not in the manifest")
    found = bundle(passed, PLAIN, out=tmp_path / "out")
    models = {"onnx/model.onnx", "onnx/model_int8.onnx"}
    reports = {REPORT, "reports/summary.md"}
    assert found.files.keys() == ALWAYS | models | reports
    assert check_bundle(tmp_path / "out").files == found.files
    manifest = read_manifest(tmp_path / "out")
    assert manifest["files"].keys() == found.files.keys() - {CARD, BOM, MANIFEST_NAME}
    assert manifest["steps"]["validate"] == {"verdict": "pass"}
    assert "trace.svg" not in (tmp_path / "out" / "reports/summary.md").read_text()


def test_it_runs_as_the_directory_does(passed: Path, tmp_path: Path) -> None:
    bundle(passed, PLAIN, out=tmp_path / "out")
    ids = np.array([[2, 7, 9, 3], [2, 8, 3, 0]])
    feeds = {
        "input_ids": ids,
        "attention_mask": (ids > 0).astype("int64"),
        "token_type_ids": np.zeros_like(ids),
    }
    for variant in ("fp32", "int8"):
        answers = []
        for place in (passed, tmp_path / "out"):
            with open_session(place, variant=variant, engine="ort") as session:
                answers.append(session.run(feeds)["logits"])
        np.testing.assert_array_equal(*answers)


def test_it_is_a_model_folder_for_transformers(passed: Path, tmp_path: Path) -> None:
    import transformers
    from huggingface_hub import ModelCard

    bundle(passed, BundleConfig(licence="mit"), out=tmp_path / "out")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert config.model_type == "albert"
    assert tokenizer("the film").input_ids
    data = ModelCard.load(tmp_path / "out" / CARD).data
    assert (data.license, data.pipeline_tag) == ("mit", "text-classification")


def test_one_flipped_bit_is_refused_when_it_is_loaded(passed: Path, tmp_path: Path) -> None:
    place = bundle(passed, PLAIN, out=tmp_path / "bundle").directory
    with load(place) as model:
        assert model("a warm film")[0]["score"] > 0
    card = bytearray((place / CARD).read_bytes())  # Nothing that an answer depends on.
    card[100] ^= 1
    (place / CARD).write_bytes(card)
    with pytest.raises(ContractError, match=CARD):
        load(place)
    with load(place, trust=True) as model:
        assert model("a warm film")[0]["score"] > 0


def test_some_variants_alone(passed: Path, tmp_path: Path) -> None:
    found = bundle(passed, BundleConfig(variants=("int8",)), out=tmp_path / "out")
    assert "onnx/model.onnx" not in found.files
    assert list(read_manifest(tmp_path / "out")["variants"]) == ["int8"]
    with open_session(tmp_path / "out", variant="int8", engine="ort"):
        pass
    assert "| fp32 " not in (tmp_path / "out" / CARD).read_text().partition("## Files")[0]
    with pytest.raises(InputError, match="has no fp16; it has fp32, int8"):
        bundle(passed, BundleConfig(variants=("fp16",)), out=tmp_path / "other")


def test_engines_come_with_their_variant(passed: Path, tmp_path: Path) -> None:
    manifest = read_manifest(passed)
    (passed / "engines").mkdir()
    manifest["engines"] = {}
    for variant in ("fp32", "int8"):
        files = {key: f"engines/sm89-{variant}.{key}" for key in ("plan", "json")}
        for file in files.values():
            (passed / file).write_text(variant)
            manifest["files"][file] = file_record(passed / file)
        manifest["engines"][f"sm89-{variant}"] = {
            "file": files["plan"],
            "record": files["json"],
            "variant": variant,
            "flavour": "tensorrt_rtx",
            "version": "1.7",
        }
    write_manifest(passed, manifest)
    found = bundle(passed, BundleConfig(variants=("fp32",)), out=tmp_path / "out")
    engines = {name for name in found.files if name.startswith("engines/")}
    assert engines == {"engines/sm89-fp32.plan", "engines/sm89-fp32.json"}
    assert list(read_manifest(tmp_path / "out")["engines"]) == ["sm89-fp32"]


def test_weights_beside_a_model_come_along(passed: Path, tmp_path: Path) -> None:
    place = passed / "onnx/model.onnx"
    onnx_file.save(onnx_file.load(place), place, external_bytes=0)
    manifest = read_manifest(passed)
    for name in ("onnx/model.onnx", "onnx/model.onnx_data"):
        manifest["files"][name] = file_record(passed / name)
    write_manifest(passed, manifest)
    sha256 = manifest["files"]["onnx/model.onnx"]["sha256"]
    report_of(passed, lambda report: report["variants"]["fp32"].update({"sha256": sha256}))
    found = bundle(passed, PLAIN, out=tmp_path / "out")
    assert "onnx/model.onnx_data" in found.files
    with open_session(tmp_path / "out", engine="ort"):
        pass
    manifest["files"].pop("onnx/model.onnx_data")
    manifest["files"][REPORT] = file_record(passed / REPORT)
    write_manifest(passed, manifest)
    with pytest.raises(ContractError, match=r"needs onnx/model\.onnx_data"):
        bundle(passed, PLAIN, out=tmp_path / "other")


@pytest.mark.parametrize(
    ("kind", "verdict", "error"),
    [
        ("accuracy", "fail", AccuracyError),
        ("parity", "fail", ParityError),
        ("contract", "fail", ContractError),
        ("accuracy", "undecided", UndecidedError),
    ],
)
def test_what_did_not_pass_is_refused_unless_allowed(
    kind: str, verdict: str, error: type[Exception], cli: Any, passed: Path, tmp_path: Path
) -> None:
    report_of(passed, failing(kind, verdict))
    out = tmp_path / "out"
    code = error.exit_code  # type: ignore[attr-defined]
    hints = ("did not pass its validation", "--allow-failed", "it was <too> far")
    cli.refuses(code, "bundle", passed, "--out", out, hints=hints, out=out)
    assert cli("bundle", passed, "--out", out, "--allow-failed").code == 0
    text = (out / CARD).read_text()
    assert f"did not pass its validation: {verdict}" in text
    assert "it was &lt;too&gt; far" in text
    told = json.loads((out / BOM).read_text())["metadata"]["component"]["properties"]
    assert {"name": "albert-deploy:verdict", "value": verdict} in told


def test_a_verdict_that_nothing_explains_is_refused(passed: Path, tmp_path: Path) -> None:
    report_of(passed, lambda report: report.update(verdict="fail"))
    with pytest.raises(ContractError, match="did not pass"):
        bundle(passed, PLAIN, out=tmp_path / "out")


def test_what_was_not_validated_is_refused_unless_allowed(
    cli: Any, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cli.refuses(3, "bundle", exported, "--out", out, hints=("was not validated",), out=out)
    assert cli("bundle", exported, "--out", out, "--allow-failed").code == 0
    assert "Not validated" in (out / CARD).read_text()


def test_a_variant_made_since_its_validation_is_refused(passed: Path, tmp_path: Path) -> None:
    place = passed / "onnx/model_int8.onnx"
    place.write_bytes(place.read_bytes() + b"\0")
    with pytest.raises(ContractError, match=r"model_int8\.onnx is not the file"):
        bundle(passed, PLAIN, out=tmp_path / "out")
    manifest = read_manifest(passed)
    manifest["files"]["onnx/model_int8.onnx"] = file_record(place)
    write_manifest(passed, manifest)
    for allowed in (False, True):
        with pytest.raises(ContractError, match="was not validated, or made again since"):
            bundle(passed, BundleConfig(allow_failed=allowed), out=tmp_path / "out")
    found = bundle(passed, BundleConfig(variants=("fp32",)), out=tmp_path / "out")
    assert "onnx/model_int8.onnx" not in found.files


NO_VARIANT = {
    "schema": SCHEMA,
    "task": "text-classification",
    "verdict": "pass",
    "source": {},
    "dataset": {},
    "variants": {"fp32": 1},
}


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps(NO_VARIANT)])
def test_a_damaged_report_is_refused(text: str, passed: Path, tmp_path: Path) -> None:
    (passed / REPORT).write_text(text)
    with pytest.raises(ContractError, match="not the file that the manifest recorded"):
        bundle(passed, PLAIN, out=tmp_path / "out")
    manifest = read_manifest(passed)
    manifest["files"][REPORT] = file_record(passed / REPORT)
    write_manifest(passed, manifest)
    with pytest.raises(InputError, match=r"is no report|cannot read the report"):
        bundle(passed, PLAIN, out=tmp_path / "out")


def test_a_manifest_that_leads_outside_is_refused(passed: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    manifest = read_manifest(passed)
    manifest["files"][".."] = file_record(tmp_path / "secret")
    write_manifest(passed, manifest)
    with pytest.raises(InputError, match="cannot bundle"):
        bundle(passed, PLAIN, out=tmp_path / "out")


def test_the_place_is_looked_at_first(cli: Any, passed: Path, deployed: Path) -> None:
    around = passed.parent
    (around / "mine").mkdir()
    (around / "mine" / "letter").write_text("dear")
    for out in (passed, passed / "inside", around):
        cli.refuses(3, "bundle", passed, "--out", out, hints=("lie in each other",), out=out)
    for out, hint in (
        (deployed, "is a deployment directory and no bundle"),
        (around / "mine", "is not a deployment directory"),
        (around / "x.tar.gz", "--format archive"),
    ):
        cli.refuses(3, "bundle", passed, "--out", out, hints=(hint,), out=out)
    for form, hint in (("archive", "no name for an archive"), ("zip", "use one of: plain")):
        options = ("--out", around / "x", "--format", form)
        cli.refuses(3, "bundle", passed, *options, hints=(hint,), out=around / "x")


def test_a_bundle_is_replaced_in_one_step_or_left(
    passed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    bundle(passed, PLAIN, out=out)
    before = contents(out)

    def breaks(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(bundle_card, "card", breaks)
        with pytest.raises(Exception, match="free some space"):
            bundle(passed, BundleConfig(licence="mit"), out=out)
    assert contents(out) == before
    bundle(passed, BundleConfig(licence="mit"), out=out)
    assert contents(out)[LISTING] != before[LISTING]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_times_are_those_that_are_set(
    passed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report_of(passed, lambda report: report.update(time="2001-09-09T01:46:40+00:00"))
    bundle(passed, PLAIN, out=tmp_path / "out")
    assert {time // 10**9 for _, time, _ in contents(tmp_path / "out").values()} == {10**9}
    monkeypatch.setenv(EPOCH_VARIABLE, "1234")
    bundle(passed, PLAIN, out=tmp_path / "out")
    assert {time // 10**9 for _, time, _ in contents(tmp_path / "out").values()} == {1234}
    stamp = json.loads((tmp_path / "out" / BOM).read_text())["metadata"]["timestamp"]
    assert stamp == "1970-01-01T00:20:34+00:00"
    for wrong in ("soon", "-1", "", "9" * 30):
        monkeypatch.setenv(EPOCH_VARIABLE, wrong)
        with pytest.raises(InputError, match="seconds since 1970"):
            bundle(passed, PLAIN, out=tmp_path / "out")


def test_the_command_line_says_what_it_made(cli: Any, passed: Path, tmp_path: Path) -> None:
    for form, name in (("plain", "b"), ("archive", "b.tar.gz")):
        assert form in FORMATS
        out = tmp_path / name
        result = cli("bundle", passed, "--out", out, "--format", form, "--variants", "fp32")
        assert result.code == 0, result.err
        assert f"{out}: 9 files" in result.out
        assert "not signed" in result.out
        assert cli("verify", out).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"passed", "b", "b.tar.gz"}
