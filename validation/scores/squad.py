"""The scores of SQuAD v1.1: exact match and F1 over words, as its official script defines them.

Source: Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text",
section 6.1. An answer is compared after it is normalised, with the closest reference answer.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from albert_deploy.runtime.errors import InputError

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# ASCII only, as in the official script: a typographic quote or dash stays.
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Return ``text`` in lower case, without punctuation, articles and extra whitespace."""
    # Punctuation goes first and leaves no gap, so that "a." is an article and "a-b" one word.
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1.0 where the prediction equals one of the answers, else 0.0.

    Raises:
        InputError: There are no answers to compare with.
    """
    return _closest(lambda mine, answer: float(mine == answer), prediction, answers)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Return the F1 of the prediction's words against the closest answer, 0.0 to 1.0.

    Raises:
        InputError: There are no answers to compare with.
    """
    return _closest(overlap, prediction, answers)


def _closest(metric: Callable[[str, str], float], prediction: str, answers: Sequence[str]) -> float:
    if not answers:
        raise InputError("got a question without answers, wanted at least one; check the data set")
    mine = normalize(prediction)
    return max(metric(mine, normalize(answer)) for answer in answers)


def overlap(prediction: str, answer: str) -> float:
    """Return 2 x shared words / all words: the harmonic mean of precision and recall."""
    mine, theirs = prediction.split(), answer.split()
    shared = (Counter(mine) & Counter(theirs)).total()
    # No words on either side score 0 too: v1.1 has no unanswerable questions.
    return 2 * shared / (len(mine) + len(theirs)) if shared else 0.0
