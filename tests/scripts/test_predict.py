"""The command predict in a shell: arguments, files and pipes, good lines and bad ones."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime import load
from albert_deploy.scripts.input_lines import MOST_BYTES, read_lines

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
    "long": (b"the film " * 60, "has 122 tokens, the limit is 64"),
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
    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 0


@pytest.mark.slow
def test_ten_thousand_lines_run_in_constant_memory(
    cli: Any, exported: Path, tmp_path: Path
) -> None:
    def run(count: int) -> tuple[int, int]:
        """Return the lines written, and the most memory that the process had, in KiB."""
        file = tmp_path / f"{count}.txt"
        words = ["the film was"] + ["long"] * 9 + ["a warm river"] * 3
        lines = (" ".join(words[: 1 + i % 11]) for i in range(count))
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        written = tmp_path / "out.jsonl"
        with written.open("wb") as out:
            process = subprocess.Popen(cli.command("predict", exported, "-f", file), stdout=out)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return len(written.read_bytes().splitlines()), usage.ru_maxrss

    (few, before), (many, after) = run(500), run(10_000)
    assert (few, many) == (500, 10_000)
    # An answer that were kept takes some 250 bytes, and a text twice as much: 7 MB of them.
    assert after - before < 4_000
