"""What slim takes from an environment for inference, and what it never touches."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime.errors import ContractError, InputError
from albert_deploy.scripts import slim
from albert_deploy.scripts.unneeded import environment_bytes, unneeded

OWN = (
    "numpy>=1.26",
    "tokenizers>=0.21",
    "click>=8.1",
    'onnxruntime>=1.20; extra == "cpu"',
    'model-signing>=1.1; extra == "sign"',
    'torch>=2.11; extra == "export"',
    'huggingface-hub>=1.0; extra == "export"',
    'onnx>=1.18; extra == "export"',
    'pytest>=8.3; extra == "dev"',
    'albert-deploy[hub,sign]; extra == "dev"',
)
RUNTIME: dict[str, tuple[str, ...]] = {
    "albert-deploy": OWN,
    "numpy": (),
    "click": (),
    "tokenizers": ("huggingface-hub<3.0,>=0.16.4", 'pytest; extra == "testing"'),
    "huggingface_hub": ("click", "hf-xet", "PyYAML>=5.1", "packaging", 'torch; extra == "torch"'),
    "hf-xet": (),
    "PyYAML": (),
    "packaging": (),
    "onnxruntime": ("numpy", "packaging", "protobuf", "flatbuffers"),
    "protobuf": (),
    "flatbuffers": (),
    "pip": (),
    "setuptools": ('filelock; extra == "testing"',),
}
GONE = {"flatbuffers", "hf-xet", "huggingface-hub", "packaging", "protobuf", "pyyaml"}


class Environment:
    """A folder that looks like a virtual environment; its packages are a module each."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.site = prefix / "lib" / "python3.11" / "site-packages"
        self.site.mkdir(parents=True)
        (prefix / "bin").mkdir()
        (prefix / "pyvenv.cfg").write_text("home = /usr\n", encoding="utf-8")
        (prefix / "bin" / "python").symlink_to(sys.executable)
        for name, requires in RUNTIME.items():
            self.add(name, requires, requested=name == "albert-deploy")

    def add(self, name: str, requires: Sequence[str] = (), *, requested: bool = False) -> None:
        module = name.replace("-", "_").lower()
        files = [f"{module}/__init__.py", f"../../../bin/{module}"]
        info = f"{module}-1.0.dist-info"
        lines = [f"Requires-Dist: {line}" for line in requires]
        metadata = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *lines])
        written = {
            **dict.fromkeys(files, "x = 1\n" * 50),
            f"{info}/METADATA": metadata + "\n",
            **({f"{info}/REQUESTED": ""} if requested else {}),
        }
        record = [f"{path},," for path in (*written, f"{info}/RECORD")]
        for path, text in (*written.items(), (f"{info}/RECORD", "\n".join(record))):
            self.write(path, text)
        # As the interpreter leaves it, in no record.
        self.write(f"{module}/__pycache__/__init__.cpython-311.pyc", "code" * 99)

    def write(self, path: str, text: str) -> Path:
        place = self.site / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
        return place

    def state(self) -> set[str]:
        return {str(path.relative_to(self.prefix)) for path in self.prefix.rglob("*")}


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setattr(slim, "_CHECK", "")
    return Environment(tmp_path / "env")


def test_what_only_unused_requirements_ask_for_goes(environment: Environment) -> None:
    before = environment_bytes(environment.prefix)
    removal = unneeded(environment.prefix)
    assert removal.packages.keys() == GONE
    assert environment_bytes(environment.prefix) == before
    slim.remove(removal)
    left = {path.name for path in environment.site.iterdir()}
    kept = {"albert_deploy", "numpy", "click", "tokenizers", "onnxruntime", "pip", "setuptools"}
    assert left == kept | {f"{name}-1.0.dist-info" for name in kept}
    assert {path.name for path in (environment.prefix / "bin").iterdir()} == {*kept, "python"}
    assert not list((environment.site / "numpy").rglob("*.pyc"))
    assert list((environment.site / "click").rglob("*.pyc"))  # Nobody knows who loads it.
    gone = sum(removal.packages.values()) + sum(removal.files.values())
    assert before - environment_bytes(environment.prefix) == gone
    assert unneeded(environment.prefix).packages == {}


def test_what_something_else_needs_or_was_asked_for_stays(environment: Environment) -> None:
    environment.add("myservice", ("PyYAML", "fast-client[all]"), requested=True)
    environment.add("fast-client", ('hf_xet ; extra == "all"',))
    environment.add("flatbuffers", requested=True)
    environment.add("model-signing", ("protobuf; python_version > '3'",))
    assert unneeded(environment.prefix).packages.keys() == {"huggingface-hub", "packaging"}


def test_installers_go_where_asked(environment: Environment) -> None:
    removal = unneeded(environment.prefix, installers=True)
    assert removal.packages.keys() == GONE | {"pip", "setuptools"}
    environment.add("click", ("setuptools",))
    removal = unneeded(environment.prefix, installers=True)
    assert removal.packages.keys() == GONE | {"pip"}


@pytest.mark.parametrize("links", [False, True])
def test_the_second_onnx_runtime_goes_unless_something_links_it(
    environment: Environment, links: bool
) -> None:
    capi = "onnxruntime/capi"
    copy = environment.write(f"{capi}/libonnxruntime.so.1.31.1", "library")
    assert unneeded(environment.prefix).files.get(f"{capi}/libonnxruntime.so*") is None
    text = "\0libonnxruntime.so.1\0" if links else "all of it"
    module = environment.write(f"{capi}/onnxruntime_pybind11_state.cpython-311.so", text)
    shared = environment.write(f"{capi}/libonnxruntime_providers_shared.so", "shared")
    slim.remove(unneeded(environment.prefix))
    assert copy.exists() == links
    assert module.exists()
    assert shared.exists()


def test_tests_of_numpy_go_and_no_others(environment: Environment) -> None:
    inner = environment.write("numpy/lib/tests/data/tests/test_a.py", "x")
    other = environment.write("onnxruntime/tests/test_b.py", "x")
    testing = environment.write("numpy/testing/__init__.py", "x")
    assert unneeded(environment.prefix).files["numpy/**/tests"] == 1
    slim.remove(unneeded(environment.prefix))
    assert not inner.parents[2].exists()
    assert other.exists()
    assert testing.exists()


@pytest.mark.parametrize("name", ["torch", "transformers", "onnx", "pytest"])
def test_an_environment_for_more_is_refused(environment: Environment, name: str) -> None:
    environment.add(name)
    before = environment.state()
    with pytest.raises(InputError, match=f"holds {name}, which inference does not need"):
        unneeded(environment.prefix)
    assert environment.state() == before


def test_other_folders_are_refused(environment: Environment, tmp_path: Path) -> None:
    origin = environment.write(
        "albert_deploy-1.0.dist-info/direct_url.json", json.dumps({"dir_info": {"editable": True}})
    )
    with pytest.raises(InputError, match="holds an editable albert-deploy"):
        unneeded(environment.prefix)
    origin.write_text(json.dumps({"dir_info": {}}), encoding="utf-8")
    assert unneeded(environment.prefix).packages.keys() == GONE
    (environment.site / "albert_deploy-1.0.dist-info" / "METADATA").write_text("Name: x\n")
    with pytest.raises(InputError, match="holds no albert-deploy"):
        unneeded(environment.prefix)
    (environment.prefix / "pyvenv.cfg").unlink()
    for prefix in (environment.prefix, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="is no virtual environment"):
            unneeded(prefix)


def test_files_outside_the_environment_are_never_touched(
    environment: Environment, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.py").write_text("x", encoding="utf-8")
    (environment.site / "linked").symlink_to(outside)
    record = environment.site / "hf_xet-1.0.dist-info" / "RECORD"
    more = ["../../../../outside/a.py,,", f"{outside}/a.py,,", "linked/a.py,,"]
    record.write_text("\n".join([record.read_text("utf-8"), *more]), encoding="utf-8")
    removal = unneeded(environment.prefix)
    assert "hf-xet" in removal.packages
    slim.remove(removal)
    assert (outside / "a.py").exists()


def test_an_environment_that_broke_is_told(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slim, "_CHECK", "import no_such_package")
    with pytest.raises(ContractError, match=r"cannot import the runtime .* 'no_such_package'"):
        slim.remove(unneeded(environment.prefix))


def test_the_command_tells_what_it_does(
    environment: Environment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*arguments: object) -> tuple[Any, str]:
        monkeypatch.setattr(sys, "argv", ["slim", *map(str, arguments)])
        code: Any = 0
        try:
            slim.main()
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    before = environment.state()
    code, out = told(environment.prefix, "--dry-run")
    assert (code or 0, environment.state()) == (0, before)
    assert sum("would remove" in line for line in out.splitlines()) == len(GONE) + 1
    code, out = told(environment.prefix)
    assert (code or 0, "after" in out) == (0, True)
    assert environment.state() < before
    code, out = told("--help")
    assert (code or 0, "--dry-run" in out) == (0, True)
    # This one is for development, whatever it was made by.
    code, out = told()
    assert code == 3
    assert out.startswith("error: ")
