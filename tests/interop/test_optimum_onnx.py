"""optimum-onnx answers from a deployment directory as our runtime does.

It needs an environment of 1.3 GB with an older transformers, so it runs only on request:
``ALBERT_DEPLOY_OPTIMUM_VENV=FOLDER`` says where that environment is, or is to be made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from albert_deploy.runtime.contract import SYNONYMS, TASKS

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "tools" / "interop"
VARIABLE = "ALBERT_DEPLOY_OPTIMUM_VENV"


@pytest.mark.slow
@pytest.mark.skipif(
    VARIABLE not in os.environ,
    reason=f"makes an environment of 1.3 GB: set {VARIABLE} to a folder for it",
)
def test_answers_as_our_runtime(directory: Path) -> None:
    lines = (SCRIPTS / "sentences.txt").read_text(encoding="utf-8").splitlines()
    texts = [*lines, "a long and warm film that never ends " * 60]
    ran = subprocess.run(
        [SCRIPTS / "optimum_onnx.sh", directory, os.environ[VARIABLE]],
        input="\n".join(texts),
        capture_output=True,
        encoding="utf-8",
        timeout=900,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    compared = subprocess.run(
        [sys.executable, SCRIPTS.parent / "compare_answers.py", directory],
        input=ran.stdout,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert compared.returncode == 0, compared.stdout + compared.stderr
    for variant in ("fp32", "fp16", "int8"):
        assert f"{variant}: {len(texts)} texts, 0 labels differ" in compared.stdout


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"set {VARIABLE}, see above")
def test_synonyms_of_tasks_are_optimums() -> None:
    code = (
        "import json; from optimum.exporters.tasks import TasksManager; "
        "print(json.dumps(TasksManager._SYNONYM_TASK_MAP))"
    )
    python = Path(os.environ[VARIABLE]) / "bin" / "python"
    found = json.loads(subprocess.check_output([python, "-c", code], encoding="utf-8"))
    known = {name: task for name, task in found.items() if task in TASKS and name not in TASKS}
    assert known == SYNONYMS
