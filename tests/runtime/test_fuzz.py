"""Whatever is asked, the answer is one of the documented form or an error that names the row."""

from __future__ import annotations

import functools
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz_answers import check, same
from fuzz_json import mutated
from fuzz_models import stand_in
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import tagged

from albert_deploy.runtime import load
from albert_deploy.runtime.bundle import BOM, LISTING, listing_bytes
from albert_deploy.runtime.contract import TASKS
from albert_deploy.runtime.errors import AlbertDeployError, ContractError, InputError
from albert_deploy.runtime.manifest import MANIFEST_NAME, file_record, read_manifest, write_manifest
from albert_deploy.runtime.pipeline import Model
from albert_deploy.scripts.bundle.step import BundleConfig, bundle
from albert_deploy.scripts.cli.predict import read_lines

pytestmark = pytest.mark.medium

HERE = Path(__file__).parent
PIECES = (
    "[CLS]", "[SEP]", "[MASK]", "[PAD]", "<pad>", "<unk>", "[UNK]", "the film", " ", "\t", "\n",
    "\x00", "\ud800", "é", "e\u0301", "İ", "ß", "½", "\u202e", "\u200d", "\ufeff", "👩‍👩‍👧", "日本",
    "a\u0338" * 9, "x" * 300, "w " * 90, "``", "▁", "##", "ﬁ", "\U000e0041", "\u3000", "",
)  # fmt: skip
TEXT = st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(("text", "question", "context", "choices", "\ud800")), inner
        )
    ),
    max_leaves=6,
)
_CUT = {"truncation": st.booleans(), "max_length": st.sampled_from((None, 1, 2, 3, 4, 9, 64))}
# Task -> inputs that could be answered, and options.
ASKED: dict[str, tuple[Any, dict[str, Any]]] = {
    "feature-extraction": (TEXT | st.tuples(TEXT, TEXT), _CUT | {"pooled": st.booleans()}),
    "pretraining": (
        st.tuples(TEXT, TEXT).map(lambda two: {"text": f"{two[0]}[MASK]", "text_pair": two[1]}),
        _CUT | {"top_k": st.sampled_from((1, 3))},
    ),
    "fill-mask": (
        st.lists(TEXT, min_size=1, max_size=3).map("[MASK]".join),
        _CUT | {"top_k": st.sampled_from((None, 1, 3))},
    ),
    "text-classification": (
        TEXT | st.fixed_dictionaries({"text": TEXT, "text_pair": TEXT}),
        _CUT
        | {
            "top_k": st.sampled_from((None, 1, 2)),
            "function_to_apply": st.sampled_from((None, "softmax", "sigmoid", "none")),
        },
    ),
    "multiple-choice": (
        st.fixed_dictionaries(
            {"context": TEXT, "choices": st.lists(TEXT, max_size=4)}, optional={"question": TEXT}
        ),
        {"max_length": _CUT["max_length"]},
    ),
    "token-classification": (
        TEXT,
        _CUT
        | {
            "aggregation_strategy": st.sampled_from(("none", "simple", "first", "average", "max")),
            "stride": st.sampled_from((None, 0, 2)),
            "ignore_labels": st.sampled_from(((), ("O",))),
        },
    ),
    "question-answering": (
        st.fixed_dictionaries({"question": TEXT, "context": TEXT}),
        {
            "top_k": st.sampled_from((1, 4)),
            "max_seq_len": st.sampled_from((None, 8, 20)),
            "doc_stride": st.sampled_from((None, 0, 3)),
            "max_question_len": st.sampled_from((1, 64)),
            "max_answer_len": st.sampled_from((1, 15)),
            "handle_impossible_answer": st.booleans(),
            "align_to_words": st.booleans(),
        },
    ),
}
assert ASKED.keys() == TASKS.keys()


def options_of(task: str) -> Any:
    return st.fixed_dictionaries({}, optional=ASKED[task][1]).map(fitting)


def fitting(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out a stride where there is nothing to join: that is an error of the call."""
    joined = options.get("aggregation_strategy", "none") != "none"
    return {name: value for name, value in options.items() if joined or name != "stride"}


def asked(task: str) -> Any:
    inputs = ASKED[task][0]
    return st.tuples(
        st.lists(st.one_of(inputs, inputs, inputs, JSON), max_size=5),
        options_of(task),
        st.sampled_from((1, 2, 8)),
    )


def hold(model: Model, inputs: list[Any], options: dict[str, Any], batch_size: int) -> set[str]:
    """Check every answer, alone and among the others; return which kinds there were."""
    streamed = functools.partial(model.stream, skip_bad=True, **options)
    found = list(streamed(inputs, batch_size=batch_size))
    assert len(found) == len(inputs)
    tokenizer, kinds = model._info.tokenizer, set()
    for number, (one, answer) in enumerate(zip(inputs, found, strict=True), 1):
        kinds.add(check(model.task, one, answer, f"text {number}", options, tokenizer))
        (alone,) = streamed([one], batch_size=1)
        if "error" in kinds and isinstance(alone, dict) and alone.keys() == {"error"}:
            assert answer == {"error": alone["error"].replace("text 1", f"text {number}")}
        else:
            same(answer, alone)
    return kinds


@pytest.fixture(scope="module")
def deployed(make_export: Callable[..., Path]) -> Callable[[str], Path]:
    @functools.cache
    def make(task: str) -> Path:
        return make_export(task, **tagged(task))

    return make


@pytest.mark.parametrize("task", ASKED)
def test_any_input_is_answered_or_refused_by_a_real_model(
    deployed: Callable[[str], Path], task: str
) -> None:
    kinds: set[str] = set()
    with load(deployed(task), threads=1) as model:

        @settings(max_examples=30)
        @given(asked(task))
        def holds(question: Any) -> None:
            kinds.update(hold(model, *question))

        holds()
        if task == "multiple-choice":  # Most of what is made up has too few choices.
            kinds |= hold(model, [{"context": "a film", "choices": ["long", "warm"]}], {}, 1)
    assert kinds == {"answer", "error"}


@pytest.mark.parametrize("task", ASKED)
def test_any_input_is_answered_or_refused_with_alberts_tokenizer(task: str) -> None:
    kinds: set[str] = set()
    model = stand_in(task)

    @given(asked(task))
    def holds(question: Any) -> None:
        kinds.update(hold(model, *question))

    holds()
    assert kinds == {"answer", "error"}


@pytest.mark.parametrize("text", ["x" * 20_000, " " * 300_000, "[MASK]" * 9_000, "a\u0301" * 9_999])
@pytest.mark.parametrize("task", ["token-classification", "question-answering", "fill-mask"])
def test_an_enormous_text_is_answered_or_refused(task: str, text: str) -> None:
    given_one: Any = {"question": "who", "context": text} if task == "question-answering" else text
    model = stand_in(task)
    options = {} if task == "question-answering" else {"truncation": True}
    (answer,) = model.stream([given_one], skip_bad=True, **options)
    check(task, given_one, answer, "text 1", options, model._info.tokenizer)


NUMBERS = st.floats(width=32) | st.sampled_from((0.0, 3.4e38, -3.4e38, 1e-45, math.nan, math.inf))


@pytest.mark.parametrize("task", ASKED)
def test_any_logits_make_a_good_answer_or_a_contract_error(task: str) -> None:
    ends: set[str] = set()
    fixed: dict[str, Any] = {
        "question-answering": {"question": "who", "context": "the film was long. " * 20},
        "multiple-choice": {"context": "the film", "choices": ["a", "b c", ""], "question": "who"},
    }
    one = fixed.get(task, "the film [MASK] was É long")

    @example([0.0], {})
    @example([math.nan], {})
    @given(st.lists(NUMBERS, min_size=1, max_size=8), options_of(task))
    def holds(values: list[float], options: dict[str, Any]) -> None:
        model = stand_in(task, tuple(values))
        try:
            (answer,) = model.stream([one], skip_bad=True, **options)
        except ContractError as error:
            message = str(error)
            assert "NaN or infinite" in message
            assert not all(map(math.isfinite, values))
            ends.add("refused")
        else:
            ends.add(check(task, one, answer, "text 1", options, model._info.tokenizer))

    holds()
    assert ends >= {"answer", "refused"}


LINE = st.binary(max_size=30) | JSON.map(lambda value: json.dumps(value).encode())


@given(st.lists(LINE, max_size=6).map(b"\n".join), st.sampled_from(("auto", "text", "json")))
@example(b'{"text":' + b"[" * 100_000, "auto")
@example(b'{"text": ' + b"9" * 5_000 + b"}", "auto")
@example(b'"' + b"\\ud800" + b'"\n\xff', "auto")
def test_any_bytes_are_lines_that_are_answered_or_refused(data: bytes, form: str) -> None:
    found = list(read_lines(io.BytesIO(data), form))
    assert len(found) == data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
    for number, one in enumerate(found, 1):
        assert not isinstance(one, InputError) or f"line {number} " in str(one)
    model = stand_in("text-classification")
    for answer in model.stream(found, noun="line", skip_bad=True):
        assert answer.keys() in ({"error"}, {"label", "score"})


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, deployed: Callable[[str], Path]) -> Path:
    """A folder with a deployment directory of every task."""
    place = tmp_path_factory.mktemp("fuzzed")
    for task in TASKS:
        shutil.copytree(deployed(task), place / task)
    return place


def run_fuzzer(place: Path, work: Path, seconds: int, *flags: str) -> tuple[int, str]:
    """Run the coverage-guided fuzzer in a process of its own; return its exit status and log."""
    pytest.importorskip("atheris", reason="atheris is not installed: pip install atheris")
    done = subprocess.run(
        [
            sys.executable, HERE / "fuzz_target.py", place, *flags, f"-max_total_time={seconds}",
            "-timeout=60", "-rss_limit_mb=4096", "-max_len=512", "-print_final_stats=1",
            f"-artifact_prefix={work}/", "-seed=7",
        ],
        capture_output=True, text=True, errors="replace", check=False, cwd=work,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.fuzz
def test_a_guided_hunt_finds_no_crash(
    fuzzed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = int(os.environ.get("ALBERT_DEPLOY_FUZZ_S", "10"))
    status, log = run_fuzzer(fuzzed, tmp_path, seconds)
    assert status == 0, log[-6000:]
    found = re.findall(r"#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+)", log)
    assert found, log[-2000:]
    runs, coverage, features = map(int, found[-1])
    with capsys.disabled():
        print(f" {runs} runs, {coverage} edges, {features} features ", end="")
    assert runs > 100
    assert coverage > 100


@pytest.mark.fuzz
def test_a_planted_crash_is_found(fuzzed: Path, tmp_path: Path) -> None:
    status, log = run_fuzzer(fuzzed, tmp_path, 120, "--plant")
    assert status != 0
    assert "planted: a text with a dotted capital i" in log
    assert list(tmp_path.glob("crash-*"))


MUTATED = ("manifest.json", "tokenizer.json", "tokenizer_config.json")


@pytest.mark.parametrize("name", MUTATED)
def test_a_directory_with_a_changed_json_file_answers_or_is_refused(
    deployed: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    place = Path(shutil.copytree(deployed("text-classification"), tmp_path / "out"))
    original, recorded = json.loads((place / name).read_text("utf-8")), read_manifest(place)
    ends: set[str] = set()

    @given(mutated(original))
    def holds(told: str) -> None:
        (place / name).write_text(told, encoding="utf-8", errors="surrogatepass")
        if name != MANIFEST_NAME:  # the hash would tell at once
            files = recorded["files"] | {name: file_record(place / name)}
            write_manifest(place, recorded | {"files": files})
        try:
            with load(place, threads=1) as model:
                (answer,) = model.stream(["a film"], skip_bad=True, truncation=True)
        except AlbertDeployError as error:
            message = str(error)
            assert len(message) < 2000
            ends.add("refused")
        else:
            assert answer.keys() in ({"error"}, {"label", "score"})
            ends.add("answered")

    holds()
    assert ends == {"answered", "refused"}


@pytest.mark.parametrize("name", [LISTING, MANIFEST_NAME, BOM])
def test_a_bundle_with_a_changed_json_file_is_refused(
    deployed: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    place = tmp_path / "bundle"
    bundle(deployed("text-classification"), BundleConfig(allow_failed=True), out=place)
    original = json.loads((place / name).read_text("utf-8"))
    listing = json.loads((place / LISTING).read_text("utf-8"))["files"]

    @given(mutated(original))
    def holds(told: str) -> None:
        (place / name).write_text(told, encoding="utf-8", errors="surrogatepass")
        if name != LISTING:  # as whoever can change a file changes the list
            files = listing | {name: file_record(place / name)}
            (place / LISTING).write_bytes(listing_bytes(files))
        try:
            load(place, threads=1).close()
        except AlbertDeployError as error:
            message = str(error)
            assert len(message) < 2000
        else:  # what it says beside its files is nobody's to check
            assert name != LISTING

    holds()
