"""The measure of the runtime alone: what it prints, and that it fails above a limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from albert_deploy.scripts.tools import runtime_size
from albert_deploy.scripts.tools.runtime_size import LIMIT_MB, LIMIT_S, Sizes

FINE: dict[str, Any] = {
    "pip_mb": 217.0,
    "image_mb": LIMIT_MB,
    "import_s": 0.01,
    "import_all_s": LIMIT_S,
}


def told(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[Any, str]:
    asked: list[Path | None] = []

    def measure(directory: Path | None) -> Sizes:
        asked.append(directory)
        return Sizes(**(FINE | changed))

    monkeypatch.setattr(runtime_size, "measure", measure)
    code: Any = 0
    try:
        runtime_size.main(["some/directory"])
    except SystemExit as end:
        code = end.code
    assert asked == [Path("some/directory")]
    return code, capsys.readouterr().out


def test_every_figure_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = told({}, monkeypatch, capsys)
    assert code == 0
    for figure in ("217.0 MB", "120.0 MB", "0.010 s", "0.300 s"):
        assert figure in out


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_mb", 120.1, "the size is 120.100 MB, above 120 MB"),
        ("import_s", 0.31, "the import of load is 0.310 s, above 0.3 s"),
        ("import_all_s", 0.4, "the import with numpy and tokenizers is 0.400 s, above 0.3 s"),
    ],
)
def test_a_figure_above_its_limit_fails(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: float,
    message: str,
) -> None:
    code, out = told({name: value}, monkeypatch, capsys)
    assert code == message  # A text as the code prints it and exits with 1.
    assert "217.0 MB" in out


def test_what_is_installed_is_a_copy_of_the_code_alone(tmp_path: Path) -> None:
    repository = Path(__file__).resolve().parents[3]
    copied = runtime_size._copied(tmp_path / "project")
    names = {path.name for path in copied.iterdir()}
    assert {"export", "quantize", "runtime", "scripts", "validation", "docker"} <= names
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names
    assert not {"tests", "docs", ".venv", ".git"} & names
    assert not list(copied.rglob("__pycache__"))
    assert (copied / "runtime/pipeline.py").read_bytes() == (
        repository / "runtime/pipeline.py"
    ).read_bytes()


def test_the_image_is_made_by_its_own_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands: list[list[str]] = []
    real = runtime_size._run

    def run(command: list[str], place: Path) -> str:
        return real(command, place) if command[0] == "git" else str(commands.append(command))

    monkeypatch.setattr(runtime_size, "_run", run)
    runtime_size.install_image(tmp_path / "env")
    (command,) = commands
    assert command[:2] == ["sh", "-ec"]
    assert "/opt/albert" not in command[2]
    for word in ("--without-pip", "--no-deps -r docker/runtime.txt .", "rm ", "import onnxruntime"):
        assert word in command[2]
