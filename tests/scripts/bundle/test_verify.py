"""``verify`` sees whatever was done to a bundle."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from folders import relist

from albert_deploy.runtime import bundle as bundle_verify
from albert_deploy.runtime.bundle import (
    BESIDE,
    BOM,
    LISTING,
    SIGNATURE,
    check_bundle,
    content_digest,
    read_listing,
)
from albert_deploy.runtime.engines.external_data import external_files
from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.runtime.manifest import MANIFEST_NAME, file_record, sha256_of
from albert_deploy.scripts.bundle.step import BundleConfig, bundle

BANNED = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "subprocess"}
BANNED_CALLS = {"eval", "exec", "__import__", "os.system", "os.popen", "np.load", "numpy.load"}


@pytest.fixture(scope="module")
def made(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, and an archive of the same beside it; tests copy them before they touch them."""
    out = tmp_path_factory.mktemp("made") / "bundle"
    bundle(exported, BundleConfig(allow_failed=True), out=out)
    bundle(
        exported, BundleConfig(allow_failed=True, form="archive"), out=out.parent / "bundle.tar.gz"
    )
    return out


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_a_good_bundle_passes(cli: Any, made: Path) -> None:
    found = check_bundle(made)
    assert set(found.files) | {LISTING} == {
        str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()
    }
    assert not found.signed
    for place in (made, made.with_name("bundle.tar.gz")):
        result = cli("verify", place)
        assert result.code == 0, result.err
        assert "intact" in result.out
        assert "not signed" in result.out
        told = json.loads(cli("verify", place, "--json").out)
        assert told["sha256"] == found.sha256
        assert told["files"][MANIFEST_NAME]["bytes"] > 0


def test_one_flipped_bit_in_any_file_is_seen(cli: Any, copied: Path) -> None:
    names = [*check_bundle(copied).files, LISTING]
    assert len(names) > 6
    for name in names:
        path = copied / name
        good = path.read_bytes()
        for place in {0, len(good) // 3, len(good) // 2, len(good) - 1}:
            bad = bytearray(good)
            bad[place] ^= 1 << place % 8
            path.write_bytes(bad)
            with pytest.raises(ContractError):
                check_bundle(copied)
        assert cli("verify", copied).code == 4
        path.write_bytes(good)
    assert cli("verify", copied).code == 0


def test_each_bit_of_the_list_counts(made: Path) -> None:
    good = (made / LISTING).read_bytes()
    digest, files = read_listing(good, LISTING)
    assert digest == content_digest(files)
    for place in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            with pytest.raises(ContractError):
                read_listing(bytes(bad), LISTING)


def test_a_list_that_is_written_otherwise_is_refused(made: Path) -> None:
    good = (made / LISTING).read_bytes()
    shadowed = good.replace(b'"files": {', b'"files": {}, "files": {', 1)
    for bad in (json.dumps(json.loads(good)).encode(), b" " + good, good + b"\n", shadowed):
        assert json.loads(bad) == json.loads(good)
        with pytest.raises(ContractError):
            read_listing(bad, LISTING)


def test_one_flipped_bit_in_an_archive_is_seen(cli: Any, made: Path, tmp_path: Path) -> None:
    good = made.with_name("bundle.tar.gz").read_bytes()
    bad = tmp_path / "bad.tar.gz"
    for place in [*range(24), *range(24, len(good), len(good) // 40), *range(-130, 0)]:
        data = bytearray(good)
        data[place] ^= 1 << place % 8
        bad.write_bytes(data)
        assert cli("verify", bad).code == 4


def _delete(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _add(folder: Path) -> None:
    (folder / "onnx" / "more.onnx").write_bytes(b"x")


def _add_hidden(folder: Path) -> None:
    (folder / ".hidden").write_bytes(b"x")


def _grow(folder: Path) -> None:
    with (folder / "config.json").open("ab") as file:
        file.write(b"\n")


def _symlink(folder: Path) -> None:
    (folder / "config.json").rename(folder.parent / "config.json")
    (folder / "config.json").symlink_to(folder.parent / "config.json")


def _folder_link(folder: Path) -> None:
    (folder / "onnx").rename(folder.parent / "onnx")
    (folder / "onnx").symlink_to(folder.parent / "onnx")


def _list_link(folder: Path) -> None:
    (folder / LISTING).rename(folder.parent / LISTING)
    (folder / LISTING).symlink_to(folder.parent / LISTING)


def _list_folder(folder: Path) -> None:
    (folder / LISTING).unlink()
    (folder / LISTING).mkdir()


def _hard_link(folder: Path) -> None:
    os.link(folder / "config.json", folder.parent / "config.json")


def _pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def _deep(folder: Path) -> None:
    (folder / "/".join("abcdefghij")).mkdir(parents=True)


def _long_list(folder: Path) -> None:
    (folder / LISTING).write_bytes(bytes(bundle_verify.MAX_LISTING_BYTES + 1))


def _nested_list(folder: Path) -> None:
    (folder / LISTING).write_bytes(b"[" * 100_000)


@pytest.mark.parametrize(
    ("damage", "hint"),
    [
        (_delete, "tokenizer.json is missing"),
        (_add, "onnx/more.onnx does not belong"),
        (_add_hidden, ".hidden does not belong"),
        (_grow, "bytes instead of"),
        (_symlink, "is a link or a special file"),
        (_folder_link, "is a link or a special file"),
        (_list_link, "is a link or a special file"),
        (_list_folder, "is no file"),
        (_hard_link, "is a hard link"),
        (_pipe, "is a link or a special file"),
        (_deep, "more files or folders"),
        (_long_list, "too large"),
        (_nested_list, "is damaged"),
    ],
)
def test_what_is_not_as_it_was_bundled_is_refused(
    damage: Callable[[Path], None], hint: str, cli: Any, copied: Path
) -> None:
    damage(copied)
    cli("verify", copied).check_refusal(4, (hint,))


def test_what_a_hub_lays_beside_the_files_is_left_alone(copied: Path) -> None:
    (copied / ".gitattributes").write_text("*.onnx filter=lfs\n")
    (copied / ".cache/huggingface/download").mkdir(parents=True)
    (copied / ".cache/huggingface/download/config.json.metadata").write_text("x")
    check_bundle(copied)
    (copied / ".cache/other").write_text("x")
    with pytest.raises(ContractError, match="cache/other does not belong"):
        check_bundle(copied)


def test_what_is_no_bundle_is_bad_input(cli: Any, exported: Path, tmp_path: Path) -> None:
    cli("verify", exported).check_refusal(3, ("is not a bundle", "albert-deploy bundle"))
    cli("verify", tmp_path / "nothing").check_refusal(3, ("does not exist",))
    (tmp_path / "file").write_text("x")
    cli("verify", tmp_path / "file").check_refusal(3, ("is not an archive of a bundle",))


def test_a_later_format_is_bad_input(copied: Path) -> None:
    value = json.loads((copied / LISTING).read_text())
    value["format"] = "albert-deploy/bundle/2"
    value["sha256"] = content_digest(value["files"], value["format"])
    (copied / LISTING).write_text(json.dumps(value, indent=2) + "\n")
    with pytest.raises(InputError, match="update albert-deploy"):
        check_bundle(copied)


def test_the_list_alone_does_not_vouch_for_a_file(copied: Path) -> None:
    _grow(copied)
    relist(copied)
    with pytest.raises(ContractError, match=r"disagree on config\.json"):
        check_bundle(copied)
    rewrite(
        copied / MANIFEST_NAME,
        lambda m: m["files"].update({"config.json": file_record(copied / "config.json")}),
    )
    relist(copied)
    with pytest.raises(ContractError, match=f"{BOM} and {LISTING} disagree on config.json"):
        check_bundle(copied)


@pytest.mark.parametrize("name", [MANIFEST_NAME, BOM])
@pytest.mark.parametrize("data", [None, b"", b"{}", b"[" * 100_000, b"[]", b"\xff"])
def test_a_manifest_and_a_bill_of_materials_have_to_be_there(
    name: str, data: bytes | None, copied: Path
) -> None:
    if data is None:
        (copied / name).unlink()
    else:
        (copied / name).write_bytes(data)
    relist(copied)
    with pytest.raises(ContractError):
        check_bundle(copied)


def test_what_the_manifest_tells_of_has_to_be_there(copied: Path) -> None:
    rewrite(
        copied / MANIFEST_NAME,
        lambda m: m["variants"].update({"int8": {"file": "onnx/model_int8.onnx"}}),
    )
    relist(copied)
    with pytest.raises(ContractError, match=r"needs onnx/model_int8\.onnx"):
        check_bundle(copied)


def test_weights_outside_the_folder_are_refused(copied: Path) -> None:
    """All hashes are right: whoever made the bundle is the attacker."""
    _external(copied / "onnx/model.onnx", "../../secret")
    record = file_record(copied / "onnx/model.onnx")
    rewrite(copied / MANIFEST_NAME, lambda m: m["files"].update({"onnx/model.onnx": record}))

    def tell(bom: Any) -> None:
        for part in bom["metadata"]["component"]["components"]:
            if part["name"] == "onnx/model.onnx":
                part["hashes"][0]["content"] = record["sha256"]

    rewrite(copied / BOM, tell)
    relist(copied)
    with pytest.raises(ContractError, match="outside its folder"):
        check_bundle(copied)
    _external(copied / "onnx/model.onnx", "model.onnx_data")
    record |= file_record(copied / "onnx/model.onnx")
    rewrite(copied / MANIFEST_NAME, lambda m: m["files"].update({"onnx/model.onnx": record}))
    rewrite(copied / BOM, tell)
    relist(copied)
    with pytest.raises(ContractError, match=r"needs onnx/model\.onnx_data"):
        check_bundle(copied)


def _tensor(location: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="offset", value="../not/a/path")
    tensor.external_data.add(key="location", value=location)
    return tensor


def _external(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "w"]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, _tensor(location)])
    path.write_bytes(model.SerializeToString())


def _in_graph(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.graph.initializer.append(tensor)
    return model


def _in_sparse(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    return model


def _in_attribute(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.graph.node.add().attribute.add().t.CopyFrom(tensor)
    return model


def _in_subgraph(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = onnx.ModelProto()
    inner = model.graph.node.add().attribute.add().g.node.add().attribute.add()
    inner.graphs.add().node.add().attribute.add().tensors.append(tensor)
    return model


def _in_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.functions.add().node.add().attribute.add().sparse_tensor.indices.CopyFrom(tensor)
    return model


def _in_default(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.functions.add().attribute_proto.add().sparse_tensors.add().values.CopyFrom(tensor)
    return model


def _in_training(tensor: onnx.TensorProto) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.training_info.add().algorithm.initializer.append(tensor)
    return model


PLACES = (
    _in_graph,
    _in_sparse,
    _in_attribute,
    _in_subgraph,
    _in_function,
    _in_default,
    _in_training,
)


@pytest.mark.parametrize("place", PLACES)
def test_names_of_weights_are_found_wherever_they_lie(
    place: Callable[[onnx.TensorProto], onnx.ModelProto], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(place(_tensor("model.onnx_data")).SerializeToString())
    assert external_files(path) == {"model.onnx_data"}
    for location in ("../x", "/etc/passwd", "a/b", "a\\b", "..", "", "C:x", "x\0"):
        path.write_bytes(place(_tensor(location)).SerializeToString())
        with pytest.raises(ContractError, match="outside its folder"):
            external_files(path)


def test_every_place_of_a_tensor_in_the_standard_is_known() -> None:
    """The table is held against the descriptors of the onnx package."""
    from albert_deploy.runtime.engines.external_data import _FIELDS

    names = {
        "ModelProto": "model",
        "TrainingInfoProto": "training",
        "GraphProto": "graph",
        "FunctionProto": "function",
        "NodeProto": "node",
        "AttributeProto": "attribute",
        "SparseTensorProto": "sparse",
        "TensorProto": "tensor",
    }
    for proto, message in names.items():
        fields = getattr(onnx, proto).DESCRIPTOR.fields
        wanted = {
            field.number: names[field.message_type.name]
            for field in fields
            if field.message_type is not None and field.message_type.name in names
        }
        wanted |= {field.number: "entry" for field in fields if field.name == "external_data"}
        assert _FIELDS[message] == wanted


@pytest.mark.parametrize("data", [b"", b"\x0a", b"\xff" * 20, b"\x3a\x7f", b"\x0b", b"\x09\0"])
def test_what_is_no_onnx_file_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ContractError, match="no readable ONNX file"):
        external_files(tmp_path / "model.onnx")


def test_archives_are_unpacked_only_where_all_is_good(cli: Any, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "unpacked"
    assert cli("verify", made.with_name("bundle.tar.gz"), "--extract", out).code == 0
    assert check_bundle(out).files.keys() == check_bundle(made).files.keys()
    bad = bytearray(made.with_name("bundle.tar.gz").read_bytes())
    bad[500] ^= 1
    (tmp_path / "bad.tar.gz").write_bytes(bad)
    before = sha256_of(out / LISTING)
    cli.refuses(4, "verify", tmp_path / "bad.tar.gz", "--extract", out, hints=("changed",), out=out)
    assert sha256_of(out / LISTING) == before
    cli("verify", made, "--extract", tmp_path / "x").check_refusal(3, ("is no archive",))


def test_the_check_needs_neither_numpy_nor_an_engine(made: Path) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from albert_deploy.runtime.bundle import check_bundle;"
        f"check_bundle(Path({str(made)!r}));"
        "print(sorted({'numpy', 'onnx', 'torch', 'transformers', 'onnxruntime', 'click'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_the_manifest_does_not_vouch_for_is_a_short_list() -> None:
    assert {MANIFEST_NAME, BOM, "README.md", SIGNATURE} == BESIDE


def test_the_runtime_reads_no_pickles_and_runs_no_texts() -> None:
    """What SECURITY.md promises of every file in ``runtime/``."""
    folder = Path(bundle_verify.__file__).parent
    files = sorted(folder.rglob("*.py"))
    assert len(files) > 20
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                named = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                found = {name.split(".")[0] for name in named} & BANNED
                assert not found, f"{file.name} imports {found}"
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in BANNED_CALLS, f"{file.name} calls {called}"
