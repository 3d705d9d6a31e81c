"""The command line's surface, and what importing it costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from albert_deploy.runtime import errors
from albert_deploy.scripts.cli.main import as_flags, main

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "matplotlib", "optimum")


def _loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_the_runtime_imports_neither_torch_nor_transformers() -> None:
    names = ("contract", "engines.ort", "engines.table", "pipeline", "trt.session")
    imports = "; ".join(f"import albert_deploy.runtime.{name}" for name in names)
    assert not _loaded_after(imports) & {*HEAVY}


def test_opening_a_session_needs_no_torch(make_checkpoint, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from albert_deploy.export.step import ExportConfig, export

    export(str(make_checkpoint()), ExportConfig(), out=tmp_path / "out")
    statement = (
        "from pathlib import Path\n"
        "from albert_deploy.runtime.engines.table import open_session\n"
        "from albert_deploy.runtime.tasks.tokenize import encode, load_tokenizer\n"
        f"out = Path({str(tmp_path / 'out')!r})\n"
        "feeds = encode(load_tokenizer(out), 'a warm film', max_length=64)\n"
        "assert open_session(out).run(feeds)['logits'].shape == (1, 2)"
    )
    assert not _loaded_after(statement) & {"torch", "transformers", "onnx", "optimum"}


def test_help_imports_nothing_heavy() -> None:
    loaded = _loaded_after("from albert_deploy.scripts.cli.main import cli")
    assert not loaded & {*HEAVY, "numpy", "tokenizers"}


def test_help_lists_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    commands = ("release", "export", "quantize", "validate", "compare", "gate", "bench", "profile")
    for word in (*commands, "contract breach", "undecided"):
        assert word in text


def test_exit_codes_are_distinct_and_documented() -> None:
    leaves = errors.AlbertDeployError.__subclasses__()
    codes = [leaf.exit_code for leaf in leaves]
    assert len(set(codes)) == len(codes)
    assert set(codes) < set(errors.EXIT_CODES)
    assert not set(codes) & {errors.EXIT_PASS, 1, errors.EXIT_USAGE, errors.EXIT_INTERNAL}


@pytest.mark.parametrize("arguments", [["nonsense"], ["export"], ["export", "x", "--nonsense"]])
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == errors.EXIT_USAGE
    assert "Usage:" in capsys.readouterr().err


def test_a_command_without_its_packages_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What Python itself does for a package that is not installed.
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as stop:
        main(["export", "sample-sst2", "--out", str(tmp_path / "out")])
    assert stop.value.code == errors.MachineError.exit_code
    assert "albert-deploy[export,cpu]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("shorten it or pass `truncate=True`", "shorten it or pass --truncate"),
        ("pass `allow_few=True`", "pass --allow-few-samples"),
        ("give some: `calibration` NAME=PATH", "give some: --calibration NAME=PATH"),
        ("`Odd` and `a b` stay", "`Odd` and `a b` stay"),
    ],
)
def test_messages_name_options_as_they_are_written_here(told: str, shown: str) -> None:
    assert as_flags(told) == shown


def test_no_message_to_python_names_an_option_of_the_command_line() -> None:
    repository = Path(__file__).resolve().parents[3]
    commands = (
        "albert-deploy ",
        "pip install",
        "_gpu=",
        '["--',
        "_REMEDY}",
        "REBUILD}",
        "no --dataset",
    )
    for room in ("runtime", "export", "quantize", "validation"):
        for path in (repository / room).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.Raise):
                    text = ast.unparse(node)
                    if not any(command in text for command in commands):
                        assert re.search(r"(?<![\w-])--[a-z]", text) is None, (path, text)
