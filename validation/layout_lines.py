"""Plain text, a sentence or paragraph on each line, for checkpoints without a trained head."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from albert_deploy.validation.dataset_table import Dataset
from albert_deploy.validation.examples import PlainRow
from albert_deploy.validation.files import read_text

# A sentence ends at one of these, perhaps within quotes or brackets, before white space.
_BOUNDARY = re.compile(r"(?<=[.!?])[\"')\]”’]*\s+")  # noqa: RUF001


def line_rows(dataset: Dataset, file: Path) -> Iterator[PlainRow]:
    """Read the lines that hold text, for masked-token prediction; the id counts them from 0.

    Raises:
        InputError: The file cannot be read.
    """
    del dataset
    texts = [line.strip() for line in read_text(file).split("\n")]
    for index, text in enumerate(filter(None, texts)):
        yield PlainRow(id=str(index), text=text, following=None)


def order_rows(dataset: Dataset, file: Path) -> Iterator[PlainRow]:
    """Read pairs of consecutive segments, for sentence order (Lan et al. 2019, section 3.1).

    A line of several sentences is one pair: it is cut at the end of the sentence that is nearest
    to its middle. A line of one sentence is paired with the next line, if that too is one
    sentence and no empty line is between them; other such lines are not used. About half of the
    pairs are swapped, which ones is fixed by a hash of their text.

    Raises:
        InputError: The file cannot be read.
    """
    del dataset
    waiting = ""
    index = 0
    for line in read_text(file).split("\n"):
        text = line.strip()
        pair = halves(text)
        if pair is None and text and waiting:
            pair = waiting, text
        waiting = text if pair is None else ""
        if pair is not None:
            yield ordered(str(index), *pair)
            index += 1


def halves(text: str) -> tuple[str, str] | None:
    """Cut a text between two sentences, as near to its middle as can be; None for one sentence."""
    ends = [match for match in _BOUNDARY.finditer(text) if match.end() < len(text)]
    if not ends:
        return None
    cut = min(ends, key=lambda match: abs(match.start() + match.end() - len(text)))
    return text[: cut.end()].rstrip(), text[cut.end() :]


def ordered(row_id: str, first: str, second: str, *, seed: int = 0) -> PlainRow:
    """Return a pair of consecutive segments, swapped or not as a hash of seed and text says."""
    swapped = hashlib.sha256(f"{seed}\0{first}\0{second}".encode()).digest()[0] & 1
    text, following = (second, first) if swapped else (first, second)
    return PlainRow(id=row_id, text=text, following=following, label=swapped)
