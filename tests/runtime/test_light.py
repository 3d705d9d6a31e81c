"""What the runtime for people imports, and how long that takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HEAVY = {
    "torch", "transformers", "onnx", "onnx_ir", "optimum", "scipy", "sklearn", "matplotlib",
    "huggingface_hub", "requests", "pandas", "jinja2", "click",
}  # fmt: skip


def child(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def loaded(code: str) -> set[str]:
    return set(
        child(f"import sys\n{code}\nprint(*{{m.split('.')[0] for m in sys.modules}})").split()
    )


def test_importing_load_is_light() -> None:
    assert not loaded("from albert_deploy.runtime import load") & {*HEAVY, "numpy", "tokenizers"}


def test_answering_imports_neither_torch_nor_transformers(make_export: Callable[..., Path]) -> None:

    out = make_export()
    code = (
        "import sys\n"
        f"for name in {sorted(HEAVY)!r}:\n    sys.modules[name] = None\n"
        "from albert_deploy.runtime import load\n"
        f"with load({str(out)!r}, engine='ort') as model:\n"
        "    assert model('a warm film')[0]['label'].startswith('LABEL_')\n"
        "print('answered')"
    )
    assert child(code) == "answered\n"
