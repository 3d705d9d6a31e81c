"""What README says to a server, said to one that runs."""

from __future__ import annotations

import json
import subprocess
import sys
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.scripts.tools.running import Running

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def blocks(server: Running) -> dict[str, str]:
    """The examples, with the port of this server in place of the usual one."""
    text = README.read_text(encoding="utf-8")
    text = text.partition("<!-- served -->")[2].partition("<!-- end of served -->")[0]
    _, shell, _, python, _ = text.replace("127.0.0.1:8000", server.http).split("```")
    return {"shell": shell.strip(), "python": python.removeprefix("python\n")}


def test_the_curl_and_the_client_of_the_readme_get_the_right_answer(
    blocks: dict[str, str], bundled: Path, same: Callable[[Any, Any], bool]
) -> None:
    from albert_deploy.runtime import load

    with load(bundled) as model:
        (wanted,) = model("a charming film")
    assert wanted["label"] == "positive"
    said = subprocess.run(
        ["bash", "-c", blocks["shell"]], capture_output=True, text=True, check=True
    ).stdout
    assert same(json.loads(json.loads(said)["answer"]), wanted)
    said = subprocess.run(
        [sys.executable, "-c", blocks["python"]], capture_output=True, text=True, check=True
    ).stdout
    assert same(literal_eval(said), wanted)
