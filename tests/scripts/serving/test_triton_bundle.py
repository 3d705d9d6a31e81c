"""Bundles for Triton: the same bytes each time, checked like any other, and what they refuse."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from folders import contents
from served_directories import add_plan, configs_of

from albert_deploy.runtime import load
from albert_deploy.runtime.bundle import BOM, CARD, LISTING, SIGNATURE, check_bundle, listing_bytes
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.manifest import file_record, read_manifest, write_json, write_manifest
from albert_deploy.scripts.bundle.choice import recommended
from albert_deploy.scripts.bundle.sign import Signer, Trust, check_signature
from albert_deploy.scripts.bundle.step import BundleConfig, bundle
from albert_deploy.scripts.serving.options import measured_settings

REPORT = "reports/validation.json"
FORM: dict[str, Any] = {"form": "triton", "allow_failed": True}
TRITON = BundleConfig(**FORM)


@pytest.fixture(scope="module")
def made(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of an ensemble that has every kind of file; tests copy it before they touch it."""
    out = tmp_path_factory.mktemp("made") / "bundle"
    bundle(exported, BundleConfig(serving={"form": "onnxruntime"}, **FORM), out=out)
    return out


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def change(directory: Path, **values: Any) -> None:
    manifest = read_manifest(directory)
    manifest |= values
    write_manifest(directory, manifest)


@pytest.mark.parametrize("form", ["direct", "python", "onnxruntime", "tensorrt"])
def test_the_same_directory_gives_the_same_bytes(
    form: str, deployed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "tensorrt":
        add_plan(deployed)
    config = BundleConfig(serving={"form": form, "instances": 2}, **FORM)
    places = [tmp_path / "one", tmp_path / "deeper" / "another"]
    bundle(deployed, config, out=places[0])
    for path in deployed.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    monkeypatch.chdir(deployed.parent)
    old = os.umask(0o077)
    try:
        bundle(Path(deployed.name), config, out=places[1])
    finally:
        os.umask(old)
    first = contents(places[0])
    assert first == contents(places[1])
    assert "models/albert/config.pbtxt" in first
    assert not any(str(tmp_path).encode() in data for data, _, _ in first.values())


def test_a_bundle_of_a_bundle_is_the_same(made: Path, tmp_path: Path) -> None:
    config = BundleConfig(serving={"form": "onnxruntime"}, **FORM)
    bundle(made, config, out=tmp_path / "two")
    assert contents(made) == contents(tmp_path / "two")


def test_every_file_is_listed_recorded_and_verified(cli: Any, made: Path) -> None:
    assert cli("verify", made).code == 0
    found = check_bundle(made)
    lying = {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()}
    assert found.files.keys() == lying - {LISTING}
    models = {name for name in lying if name.startswith("models/")}
    assert models <= read_manifest(made)["files"].keys()
    bom = json.loads((made / BOM).read_text())
    told = {part["name"] for part in bom["metadata"]["component"]["components"]}
    assert models <= told
    assert configs_of(made / "models").keys() == {
        "albert",
        "albert_tokens",
        "albert_model",
        "albert_answer",
    }


def test_a_bundle_for_triton_answers_texts_itself(made: Path, exported: Path) -> None:
    with load(made) as model, load(exported) as plain:
        assert model("a warm film") == plain("a warm film")


def test_one_flipped_bit_in_any_file_is_seen(copied: Path) -> None:
    files = sorted(path for path in copied.rglob("*") if path.is_file())
    assert len(files) > 12
    for path in files:
        good = path.read_bytes()
        assert good, path
        bad = bytearray(good)
        place = len(good) * 5 // 8
        bad[place] ^= 1 << place % 8
        path.write_bytes(bad)
        for refuse in (check_bundle, load):
            with pytest.raises(ContractError):
                refuse(copied)
        path.write_bytes(good)
    check_bundle(copied)


@pytest.mark.parametrize("name", ["models/albert/1/more.py", "models/more/config.pbtxt"])
def test_a_model_that_was_added_is_seen(copied: Path, name: str) -> None:
    (copied / name).parent.mkdir(parents=True, exist_ok=True)
    (copied / name).write_text("x")
    with pytest.raises(ContractError, match="does not belong"):
        check_bundle(copied)


def test_a_model_that_was_listed_anew_is_not_in_the_manifest(copied: Path) -> None:
    """Whoever writes the list anew has manifest and bill of materials against them."""
    place = copied / "models/albert/config.pbtxt"
    place.write_text(place.read_text().replace("albert_model", "albert_tokens"))
    files = {
        path.relative_to(copied).as_posix(): file_record(path)
        for path in copied.rglob("*")
        if path.is_file() and path.name != LISTING
    }
    (copied / LISTING).write_bytes(listing_bytes(files))
    with pytest.raises(ContractError):
        check_bundle(copied)


def test_its_bill_of_materials_holds_the_official_schema(made: Path) -> None:
    pytest.importorskip("cyclonedx", reason="needs cyclonedx-python-lib[json-validation]")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (made / BOM).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_its_card_is_the_hubs(made: Path) -> None:
    from huggingface_hub import ModelCard

    assert ModelCard.load(made / CARD).data.pipeline_tag == "text-classification"


@pytest.mark.parametrize("form", ["plain", "archive"])
@pytest.mark.parametrize(
    ("option", "name"),
    [
        (("--triton-model", "direct"), "--triton-model"),
        (("--instances", 2), "--instances"),
        (("--threads", 1), "--threads"),
        (("--max-batch", 8), "--max-batch"),
        (("--name", "mine"), "--name"),
    ],
)
def test_options_of_serving_go_with_it_alone(
    form: str, option: tuple[Any, ...], name: str, cli: Any, exported: Path, tmp_path: Path
) -> None:
    out = tmp_path / ("x.tar.gz" if form == "archive" else "x")
    given = ("--out", out, "--format", form, "--allow-failed", *option)
    cli.refuses(
        3, "bundle", exported, *given, hints=(f"{name} goes with --format triton",), out=out
    )


def test_it_has_one_variant(cli: Any, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--out", out, "--format", "triton", "--allow-failed", "--variants")
    cli.refuses(3, "bundle", exported, *options, "fp32,int8", hints=("got 2 variants",), out=out)
    with pytest.raises(InputError, match=r"got 2 variants; --format triton serves one"):
        BundleConfig(form="triton", variants=("fp32", "int8"))
    result = cli("bundle", exported, *options, "fp32", "--name", "mine", "--instances", 3)
    assert result.code == 0, result.err
    (config,) = configs_of(out / "models").values()
    assert (config.name, config.instance_group[0].count) == ("mine", 3)
    assert config.parameters["directory"].string_value == "../.."


@pytest.mark.parametrize(
    ("serving", "message"),
    [
        ({"form": "torch"}, "unknown form 'torch'"),
        ({"name": "../../x"}, "got the name"),
        ({"form": "tensorrt"}, "has none for fp32"),
        ({"instances": 0}, "instances is 0"),
    ],
)
def test_what_cannot_be_served_leaves_nothing(
    serving: dict[str, Any], message: str, exported: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        bundle(exported, BundleConfig(serving=serving, **FORM), out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_recommended_variant_is_served(deployed: Path, tmp_path: Path) -> None:
    """The fastest of those that passed, whatever machine bundles it."""
    manifest = read_manifest(deployed)
    file = "onnx/model_int8.onnx"
    shutil.copy(deployed / "onnx/model.onnx", deployed / file)
    manifest["files"][file] = file_record(deployed / file)
    manifest["variants"]["int8"] = {"file": file, "latency": {"median_ms": 1.0}}
    manifest["variants"]["fp32"] = manifest["variants"]["fp32"] | {"latency": {"median_ms": 2.0}}
    write_manifest(deployed, manifest)
    assert recommended(deployed, read_manifest(deployed)) == "fp32"  # Nothing passed.
    (deployed / "reports").mkdir(exist_ok=True)
    sha256 = {
        n: manifest["files"][f]["sha256"] for n, f in (("fp32", "onnx/model.onnx"), ("int8", file))
    }
    report = {"variants": {n: {"verdict": "pass", "sha256": sha256[n]} for n in sha256}}
    write_json(deployed / REPORT, report)
    manifest["files"][REPORT] = file_record(deployed / REPORT)
    write_manifest(deployed, manifest)
    assert recommended(deployed, read_manifest(deployed)) == "int8"
    report["variants"]["int8"]["verdict"] = "fail"
    write_json(deployed / REPORT, report)
    manifest["files"][REPORT] = file_record(deployed / REPORT)
    write_manifest(deployed, manifest)
    assert recommended(deployed, read_manifest(deployed)) == "fp32"


def test_it_is_served_as_it_was_measured(deployed: Path, tmp_path: Path) -> None:
    manifest = read_manifest(deployed)
    sha256 = manifest["files"]["onnx/model.onnx"]["sha256"]
    found = {
        "sha256": sha256,
        "engine": "ort",
        "instances": 2,
        "threads": 1,
        "preferred": [8],
        "lengths": [16, 64],
        "rows_per_s": {},
    }
    change(deployed, serving={"fp32": found})
    wanted = {"instances": 2, "threads": 1, "preferred": (8,), "lengths": (16, 64)}
    assert measured_settings(read_manifest(deployed), "fp32") == wanted
    bundle(deployed, TRITON, out=tmp_path / "one")
    (config,) = configs_of(tmp_path / "one" / "models").values()
    assert config.instance_group[0].count == 2
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.parameters["threads"].string_value == "1"
    # What is asked for goes before it.
    bundle(deployed, BundleConfig(serving={"instances": 5}, **FORM), out=tmp_path / "two")
    assert configs_of(tmp_path / "two" / "models")["albert"].instance_group[0].count == 5
    # A variant that was made again since was not measured.
    change(deployed, serving={"fp32": found | {"sha256": "0" * 64}})
    assert measured_settings(read_manifest(deployed), "fp32") == {}
    bundle(deployed, TRITON, out=tmp_path / "three")
    assert configs_of(tmp_path / "three" / "models")["albert"].instance_group[0].count == 1


def test_fewer_rows_than_were_measured_can_be_asked_for(deployed: Path, tmp_path: Path) -> None:
    sha256 = read_manifest(deployed)["files"]["onnx/model.onnx"]["sha256"]
    found = {"sha256": sha256, "instances": 1, "threads": 1, "preferred": [8], "lengths": []}
    change(deployed, serving={"fp32": found})
    bundle(deployed, BundleConfig(serving={"max_batch": 4}, **FORM), out=tmp_path / "out")
    (config,) = configs_of(tmp_path / "out" / "models").values()
    assert config.max_batch_size == 4
    assert all(n <= 4 for n in config.dynamic_batching.preferred_batch_size)


def test_what_was_measured_on_a_cpu_says_nothing_of_a_plan(deployed: Path, tmp_path: Path) -> None:
    add_plan(deployed)
    sha256 = read_manifest(deployed)["files"]["onnx/model.onnx"]["sha256"]
    found = {"sha256": sha256, "instances": 7, "threads": 3, "preferred": [2], "lengths": [9, 64]}
    change(deployed, serving={"fp32": found})
    bundle(deployed, BundleConfig(serving={"form": "tensorrt"}, **FORM), out=tmp_path / "out")
    network = configs_of(tmp_path / "out" / "models")["albert_model"]
    assert network.instance_group[0].count == 1
    assert list(network.dynamic_batching.preferred_batch_size) == [8]


def test_what_was_measured_of_other_variants_stays_behind(deployed: Path, tmp_path: Path) -> None:
    found = {"sha256": "0" * 64, "instances": 1, "threads": 1, "preferred": [], "lengths": []}
    change(deployed, serving={"int8": found, "fp32": found})
    bundle(deployed, TRITON, out=tmp_path / "out")
    assert read_manifest(tmp_path / "out")["serving"].keys() == {"fp32"}


def test_it_is_signed_like_any_other(exported: Path, tmp_path: Path) -> None:
    pytest.importorskip("model_signing.signing", reason="needs model-signing and pyopenssl")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "pub.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    out = tmp_path / "out"
    made = bundle(exported, BundleConfig(signer=Signer(key=private), **FORM), out=out)
    assert made.signed
    assert SIGNATURE in check_bundle(out).files
    check_signature(check_bundle(out), Trust(key=public))
    place = out / "models/albert/1/model.py"
    place.write_text(place.read_text() + "\n# more\n")
    with pytest.raises(ContractError):
        check_signature(made, Trust(key=public))
