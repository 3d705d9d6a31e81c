"""The command predict: texts in, answers out, a JSON line for each."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from albert_deploy.runtime.errors import InputError
from albert_deploy.scripts import options
from albert_deploy.scripts.input_lines import AUTO, FORMS, TEXT, parsed, read_lines

# Options of the command that have another name in Python, and what they are there.
_NAMES = {
    "batch_size": "batch_size",
    "top_k": "top_k",
    "truncate": "truncation",
    "pooled": "pooled",
    "aggregation": "aggregation_strategy",
    "stride": "stride",
    "targets": "targets",
}
_TAGS, _QUESTIONS = "token-classification", "question-answering"


@click.command()
@options.directory
@click.argument("texts", metavar="[TEXT]…", nargs=-1)
@options.option(
    "--file",
    "-f",
    default=None,
    metavar="FILE",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Read lines from here; by default, without a TEXT, from standard input.",
)
@options.option(
    "--lines",
    default=AUTO,
    type=click.Choice(FORMS),
    help="What lines are: text, json (objects or strings), or told by the lines themselves.",
)
@options.option(
    "--context", default=None, metavar="TEXT", help="Where the answer of each question stands."
)
@options.option("--variant", default=AUTO, help="auto: the fastest that passed its gate.")
@options.option("--engine", default=AUTO, help="ort, openvino, ort-cuda, trt or auto.")
@options.option(
    "--batch-size",
    default=None,
    type=click.IntRange(min=1),
    help="Rows at a time, by default 8; with 1 each line is answered before the next is read.",
)
@options.option("--top-k", default=None, type=click.IntRange(min=1), help="Best answers to give.")
@options.option("--truncate", is_flag=True, help="Cut over-long texts instead of refusing them.")
@options.option("--pooled", is_flag=True, help="One vector for a text, not one for each token.")
@options.option(
    "--aggregation",
    default=None,
    type=click.Choice(("none", "simple", "first", "average", "max")),
    help="Of tagged tokens: each by itself, by default grouped to entities; with first, average or "
    "max the pieces of a word agree before.",
)
@options.option(
    "--stride",
    default=None,
    type=click.IntRange(min=0),
    metavar="N",
    help="Tags and questions: read long texts in windows that share N tokens.",
)
@options.option(
    "--targets",
    default=None,
    metavar="WORD,WORD,…",
    help="The only words that may stand for a mask.",
)
@options.option("--skip-bad-lines", is_flag=True, help='Answer them with {"error": …} and go on.')
@options.option("--threads", default=0, type=click.IntRange(min=0), help="0: one per core.")
@options.option(
    "--trust",
    is_flag=True,
    help="Open a bundle that verify refuses; with --engine trt, run a plan that no manifest knows.",
)
def predict(
    directory: Path,
    texts: tuple[str, ...],
    file: Path | None,
    lines: str,
    context: str | None,
    variant: str,
    engine: str,
    skip_bad_lines: bool,
    threads: int,
    trust: bool,
    **given: Any,
) -> None:
    """Answer texts with the model in DIR: each TEXT, or each line of a file or of standard input.

    A line is a text, or JSON: a string, or an object with text, text_pair, question, context or
    choices. Each gives one line of JSON, in order.
    """
    from albert_deploy.runtime.pipeline import load

    if texts and file is not None:
        raise click.UsageError("give TEXT or --file, not both")
    if given["batch_size"] is None and not texts and _is_typed(file):
        given["batch_size"] = 1
    model = load(directory, variant, engine, threads, trust=trust)
    if model.task == _TAGS and given["aggregation"] is None:
        given["aggregation"] = "simple"
    if given["targets"] is not None:
        given["targets"] = given["targets"].split(",")
    names = _NAMES | ({"stride": "doc_stride"} if model.task == _QUESTIONS else {})
    settings = {
        names[key]: value
        for key, value in given.items()
        if value is not None and value is not False
    }
    with model, _opened(texts, file) as source:
        inputs = _arguments(texts, lines) if source is None else read_lines(source, lines)
        noun = "text" if source is None else "line"
        _write(model.stream(_with(inputs, context), noun=noun, skip_bad=skip_bad_lines, **settings))


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
