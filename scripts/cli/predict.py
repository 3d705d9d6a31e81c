"""The command predict: texts in, answers out, a JSON line for each."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click

from albert_deploy.runtime.errors import InputError
from albert_deploy.scripts.cli import options
from albert_deploy.scripts.cli.options import COUNT, COUNT_OR_0, opt

# A line is held in memory whole, and a text of this size is far beyond any model.
MOST_BYTES = 16 << 20
AUTO, TEXT, JSON = "auto", "text", "json"
FORMS = (AUTO, TEXT, JSON)
_TAGS, _QUESTIONS = "token-classification", "question-answering"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What is answered, and how; None leaves it to the pipeline."""

    file: Path | None = opt(
        None,
        "Read lines from here; by default, without a TEXT, from standard input.",
        "FILE",
        type=click.Path(path_type=Path, allow_dash=True),
        flag=("--file", "-f"),
    )
    lines: str = opt(
        AUTO,
        "What lines are: text, json (objects or strings), or told by the lines themselves.",
        type=click.Choice(FORMS),
    )
    context: str | None = opt(None, "Where the answer of each question stands.", "TEXT")
    variant: str = opt(AUTO, "auto: the fastest that passed its gate.")
    engine: str = opt(AUTO, "ort, openvino, ort-cuda, trt or auto.")
    batch_size: int | None = opt(
        None,
        "Rows at a time, by default 8; with 1 each line is answered before the next is read.",
        type=COUNT,
    )
    top_k: int | None = opt(None, "Best answers to give.", type=COUNT)
    truncate: bool = opt(False, "Cut over-long texts instead of refusing them.")
    pooled: bool = opt(False, "One vector for a text, not one for each token.")
    aggregation: str | None = opt(
        None,
        "Of tagged tokens: each by itself, by default grouped to entities; with first, average or "
        "max the pieces of a word agree before.",
        type=click.Choice(("none", "simple", "first", "average", "max")),
    )
    stride: int | None = opt(
        None,
        "Tags and questions: read long texts in windows that share N tokens.",
        "N",
        type=COUNT_OR_0,
    )
    targets: str | None = opt(None, "The only words that may stand for a mask.", "WORD,WORD,…")
    skip_bad_lines: bool = opt(False, 'Answer them with {"error": …} and go on.')
    threads: int = opt(0, "0: one per core.", type=COUNT_OR_0)
    trust: bool = opt(
        False,
        "Open a bundle that verify refuses; with --engine trt, run a plan that no manifest knows.",
    )

    def settings(self, task: str, *, typed: bool) -> dict[str, Any]:
        """Name the given ones as ``Pipeline.stream`` does.

        Args:
            task: Of the model.
            typed: Whether somebody types the lines, who waits for each answer.
        """
        stride = "doc_stride" if task == _QUESTIONS else "stride"
        found = {
            "batch_size": self.batch_size or (1 if typed else None),
            "top_k": self.top_k,
            "truncation": self.truncate or None,
            "pooled": self.pooled or None,
            "aggregation_strategy": self.aggregation or ("simple" if task == _TAGS else None),
            stride: self.stride,
            "targets": None if self.targets is None else self.targets.split(","),
        }
        return {name: value for name, value in found.items() if value is not None}


@click.command()
@options.directory
@click.argument("texts", metavar="[TEXT]…", nargs=-1)
@options.takes(Prediction, "how")
def predict(directory: Path, texts: tuple[str, ...], how: Prediction) -> None:
    """Answer texts with the model in DIR: each TEXT, or each line of a file or of standard input.

    A line is a text, or JSON: a string, or an object with text, text_pair, question, context or
    choices. Each gives one line of JSON, in order.
    """
    from albert_deploy.runtime.pipeline import load

    if texts and how.file is not None:
        raise click.UsageError("give TEXT or --file, not both")
    model = load(directory, how.variant, how.engine, how.threads, trust=how.trust)
    settings = how.settings(model.task, typed=not texts and _is_typed(how.file))
    with model, _opened(texts, how.file) as source:
        inputs = _arguments(texts, how.lines) if source is None else read_lines(source, how.lines)
        noun, skip = "text" if source is None else "line", how.skip_bad_lines
        _write(model.stream(_with(inputs, how.context), noun=noun, skip_bad=skip, **settings))


def _is_typed(file: Path | None) -> bool:
    return (file is None or str(file) == "-") and sys.stdin is not None and sys.stdin.isatty()


@contextlib.contextmanager
def _opened(texts: tuple[str, ...], file: Path | None) -> Iterator[IO[bytes] | None]:
    if texts:
        yield None
    elif file is None or str(file) == "-":
        yield sys.stdin.buffer
    else:
        try:
            opened = file.open("rb")
        except OSError as error:
            raise InputError(
                f"cannot read {file}: {error.strerror}; give a readable file"
            ) from None
        with opened:
            yield opened


def _arguments(texts: tuple[str, ...], form: str) -> Iterator[Any]:
    for number, text in enumerate(texts, 1):
        plain = form == TEXT or (form == AUTO and not text.lstrip().startswith("{"))
        yield text if plain else parsed(text, row=f"text {number}")


def _with(inputs: Iterator[Any], context: str | None) -> Iterator[Any]:
    """Lay the context beside inputs that are bare questions."""
    for one in inputs:
        bare = context is not None and isinstance(one, str)
        yield {"question": one, "context": context} if bare else one


def _write(answers: Iterator[Any]) -> None:
    """Write each answer when it comes; end quietly where nobody reads them any more."""
    out = sys.stdout.buffer
    for answer in answers:
        # A lone surrogate is written as JSON escapes it.
        text = json.dumps(answer, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            out.write(text.encode("utf-8", "backslashreplace"))
            out.flush()
        except BrokenPipeError:
            # What is left in the buffer would fail once more when the interpreter flushes it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return


def read_lines(file: IO[bytes], form: str = AUTO) -> Iterator[Any]:
    """Read one input from each line, as it is asked for.

    Where the form is ``auto``, a line that begins with ``{`` is JSON; where the first line is
    JSON, an object or a string in quotes, all are.

    Args:
        file: Open for reading bytes.
        form: One of ``FORMS``.

    Yields:
        A text or an object for each line, empty ones included, or the ``InputError`` of a line
        that is too long, no UTF-8, or malformed.
    """
    number, strict = 0, form == JSON
    while line := file.readline(MOST_BYTES + 1):
        number += 1
        if len(line) > MOST_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(MOST_BYTES)
            yield InputError(f"line {number} has more than {MOST_BYTES:,} bytes; cut it")
            continue
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield InputError(
                f"line {number} is no UTF-8: byte {error.start + 1} is "
                f"0x{line[error.start]:02x}; convert the input to UTF-8"
            )
            continue
        if number == 1 and form == AUTO:
            strict = _is_json(text)
        if strict or (form == AUTO and text.lstrip().startswith("{")):
            yield parsed(text, row=f"line {number}")
        else:
            yield text


def parsed(text: str, *, row: str) -> Any:
    """Parse the JSON of one input; an error is returned, not raised."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return InputError(
            f"{row} is malformed JSON: {error}; write one object or string in a line, or read "
            f"every line as text with --lines {TEXT}"
        )


def _is_json(line: str) -> bool:
    """Tell whether the first line says that all are JSON."""
    line = line.strip()
    if not line.startswith('"'):
        return line.startswith("{")
    try:
        return isinstance(json.loads(line), str)
    except ValueError:
        return False
