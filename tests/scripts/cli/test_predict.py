"""The command predict in a shell: arguments, files and pipes, good lines and bad ones."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.export.step import ExportConfig, export
from albert_deploy.runtime import load
from albert_deploy.runtime.options import AGGREGATIONS
from albert_deploy.scripts.cli.predict import MOST_BYTES, read_lines

TEXTS = ("the film was long", "a warm river", "what is it?")


def answers(out: str) -> list[Any]:
    return [json.loads(line) for line in out.splitlines()]


class Typed:
    """Standard input of these bytes."""

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)

    def isatty(self) -> bool:
        return False


def piped(cli: Any, monkeypatch: pytest.MonkeyPatch, content: bytes, *arguments: object) -> Any:
    monkeypatch.setattr("sys.stdin", Typed(content))
    return cli("predict", *arguments)


def test_arguments_files_and_pipes_give_the_same(
    cli: Any, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = load(exported)(list(TEXTS))
    result = cli("predict", exported, *TEXTS)
    assert (result.code, answers(result.out)) == (0, wanted)
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    assert cli("predict", exported, "--file", file).out == result.out
    lines = [json.dumps(TEXTS[0]), json.dumps({"text": TEXTS[1]}), json.dumps(TEXTS[2])]
    for content in ("\n".join(TEXTS), "\r\n".join(TEXTS) + "\r\n", "\ufeff" + "\n".join(lines)):
        found = piped(cli, monkeypatch, content.encode(), exported)
        assert (found.code, found.out) == (0, result.out)
    assert piped(cli, monkeypatch, b"", exported).out == ""
    dashed = piped(cli, monkeypatch, TEXTS[0].encode(), exported, "--file", "-", "--top-k", 2)
    assert answers(dashed.out) == load(exported)([TEXTS[0]], top_k=2)


def test_objects_are_read_among_texts(
    cli: Any, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    model = load(exported)
    content = f'{TEXTS[0]}\n\n{json.dumps(pair)}\n"quoted" word\n'.encode()
    result = piped(cli, monkeypatch, content, exported)
    assert answers(result.out) == model([TEXTS[0], "", pair, '"quoted" word'])
    assert answers(cli("predict", exported, json.dumps(pair)).out) == [model(pair)]
    plain = piped(cli, monkeypatch, b'{"text": 1\n"x"\n', exported, "--lines", "text")
    assert answers(plain.out) == model(['{"text": 1', '"x"'])


BAD = {
    "malformed": (b'{"text": "a"', "is malformed JSON"),
    "deep": (b'{"text": ' + b"[" * 100_000, "is malformed JSON"),
    "number": (b'{"text": 1}', "has a text that is of type int"),
    "key": (b'{"txt": "a"}', "lacks text"),
    "bytes": (b"the \xff film", "is no UTF-8: byte 5 is 0xff"),
    "long": (b"the film " * 60, "has 122 tokens, the limit is 16"),
    "surrogate": (b'{"text": "\\ud800"}', "cannot tokenize line 3"),
    "huge": (b"x" * (MOST_BYTES + 5), "has more than 16,777,216 bytes"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_named(
    cli: Any, exported: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    line, message = BAD[kind]
    content = b"\n".join([*(text.encode() for text in TEXTS[:2]), line, TEXTS[2].encode()])
    wanted = load(exported)(list(TEXTS))
    result = piped(cli, monkeypatch, content, exported)
    result.check_refusal(3, ("line 3", message))
    assert answers(result.out) == wanted[:2]  # What comes before it is answered.
    skipped = piped(cli, monkeypatch, content, exported, "--skip-bad-lines")
    found = answers(skipped.out)
    assert skipped.code == 0
    assert found[:2] + found[3:] == wanted
    assert found[2].keys() == {"error"}
    assert "line 3" in found[2]["error"]
    assert message in found[2]["error"]


def test_where_the_first_line_is_json_all_are() -> None:
    found = list(read_lines(io.BytesIO(b'"a"\nb\n')))
    assert found[0] == "a"
    assert "line 2 is malformed JSON" in str(found[1])
    assert list(read_lines(io.BytesIO(b'"a" b\n"b"\n'))) == ['"a" b', '"b"']


def test_long_lines_are_cut_where_asked(cli: Any, exported: Path) -> None:
    text = "the film " * 60
    result = cli("predict", exported, text, "--truncate")
    assert answers(result.out) == load(exported)([text], truncation=True)
    cli("predict", exported, text).check_refusal(3, ("text 1 has", "--truncate"))


def test_options_are_checked(cli: Any, exported: Path, tmp_path: Path) -> None:
    assert cli("predict", exported, "a", "--file", "x").code == 2
    assert cli("predict", exported, "a", "--batch-size", 0).code == 2
    cli("predict", exported, "a", "--engine", "tf").check_refusal(3, ("unknown engine",))
    cli("predict", exported, "a", "--variant", "int8").check_refusal(3, ("holds no onnx",))
    cli("predict", exported, "a", "--pooled").check_refusal(3, ("pooled is no option of",))
    cli("predict", exported, "a", "--targets", "b").check_refusal(3, ("targets is no option of",))
    cli("predict", exported, "a", "--stride", 0).check_refusal(3, ("stride is no option of",))
    cli("predict", exported, "a", "--context", "b").check_refusal(3, ("text 1 lacks text",))
    cli("predict", exported, "--file", tmp_path / "none").check_refusal(3, ("cannot read",))
    cli("predict", tmp_path, "a").check_refusal(3, ("is not a deployment directory",))
    assert answers(cli("predict", exported, "a", "--threads", 1, "--batch-size", 1).out)


def child(cli: Any, *arguments: object, **settings: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        cli.command("predict", *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **settings,
    )


def test_a_closed_pipe_ends_it_quietly(cli: Any, exported: Path, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("the film was long\n" * 5000, encoding="utf-8")
    with child(cli, exported, "--file", file) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["label"]
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_with_one_row_at_a_time_each_line_is_answered_at_once(cli: Any, exported: Path) -> None:
    process = child(cli, exported, "--batch-size", 1)
    assert process.stdin is not None
    assert process.stdout is not None
    for text in TEXTS:
        process.stdin.write(text.encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["label"]
    assert process.communicate(timeout=300) == (b"", b"")
    assert process.returncode == 0


SHELL = """
set -o pipefail
yes "the film was long" | "$@" | head -n 2
echo "${PIPESTATUS[@]}"
"""


def test_a_shell_pipe_without_end_stops_with_its_reader(cli: Any, exported: Path) -> None:
    command = cli.command("predict", exported)
    done = subprocess.run(
        ["bash", "-c", SHELL, "bash", *command],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    *lines, codes = done.stdout.splitlines()
    assert [json.loads(line).keys() for line in lines] == [{"label", "score"}] * 2
    # The writer is ended by the signal that tells it that nobody reads.
    assert codes.split() == ["141", "0", "0"]
    assert done.stderr == ""


# A process tells its own peak: what it counts from outside has its parent's before exec in it.
PEAK = """
import re, sys
from albert_deploy.scripts.cli.main import main
try:
    main(["predict", sys.argv[1]])
finally:
    status = open("/proc/self/status").read()
    print(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1], file=sys.stderr)
"""


@pytest.mark.medium
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_ten_thousand_lines_run_in_constant_memory(exported: Path, tmp_path: Path) -> None:
    def run(count: int) -> tuple[int, int]:
        """Return the lines written, and the most memory that the process had, in KiB."""
        file = tmp_path / f"{count}.txt"
        words = ["the film was", *["long"] * 9]
        lines = (" ".join(words[: 1 + i % 10]) for i in range(count))
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        written = tmp_path / "out.jsonl"
        pipe = 'set -o pipefail; cat "$1" | "$2" -c "$3" "$4" | cat > "$5"'
        done = subprocess.run(
            ["bash", "-c", pipe, "bash", file, sys.executable, PEAK, exported, written],
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return len(written.read_bytes().splitlines()), int(done.stderr)

    (few, before), (many, after) = run(500), run(10_000)
    assert (few, many) == (500, 10_000)
    # Answers that were kept would take 4.5 MB.
    assert after - before < 2_500


@pytest.mark.medium
def test_options_of_masks_and_tags(
    cli: Any, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    for task in ("fill-mask", "token-classification", "question-answering"):
        export(str(make_checkpoint(task)), ExportConfig(task=task), out=tmp_path / task)
    masked = load(tmp_path / "fill-mask")("the [MASK]", targets=["film", "river"])
    result = cli("predict", tmp_path / "fill-mask", "the [MASK]", "--targets", "film,river")
    assert answers(result.out) == [masked]
    bad = cli("predict", tmp_path / "fill-mask", "the [MASK]", "--targets", "film,rivers")
    bad.check_refusal(3, ("target 'rivers' is no token",))

    tags, long = tmp_path / "token-classification", "the film Paris was long " * 20
    model = load(tags)
    for strategy in AGGREGATIONS:
        result = cli("predict", tags, long, "--aggregation", strategy, "--truncate")
        wanted = model(long, aggregation_strategy=strategy, truncation=True)
        assert answers(result.out) == [wanted]
    cli("predict", tags, long).check_refusal(3, ("text 1 has", "the limit is 64"))
    for stride in (0, 8):
        result = cli("predict", tags, long, "--stride", stride)
        assert answers(result.out) == [model(long, aggregation_strategy="simple", stride=stride)]
    told = cli("predict", tags, "a", "--stride", 8, "--aggregation", "none")
    told.check_refusal(3, ("use simple, first, average or max",))
    assert cli("predict", tags, "a", "--aggregation", "last").code == 2

    asked = ("what is the film", "--context", long)
    result = cli("predict", tmp_path / "question-answering", *asked, "--stride", 5)
    questions = load(tmp_path / "question-answering")
    wanted = questions(question=asked[0], context=long, doc_stride=5)
    assert answers(result.out) == [wanted]
    assert wanted != questions(question=asked[0], context=long)
