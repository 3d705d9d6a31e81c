"""Opinion clauses of the sample film reviews: what one says of an aspect, and how strongly.

Negation, doubled negation, comparison and simile act inside a clause and set its signed strength.
"""

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from albert_deploy.scripts import sample_review_words as words

T = TypeVar("T")

HELD_OUT_ONE_IN: Final = 8


@dataclass(frozen=True, kw_only=True)
class Clause:
    """Words with the signed strength of the opinion they state (0 for none)."""

    text: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Draw:
    """Source of choices: the random state and whether held-out word pairs may appear."""

    rng: random.Random
    held_out: bool

    def pick(self, items: Sequence[T]) -> T:
        """Choose one item, every item being equally likely."""
        return items[self.rng.randrange(len(items))]

    def common(self, items: Sequence[T]) -> T:
        """Choose one item, favouring those at the front as usage favours common words."""
        return items[int(len(items) * self.rng.random() ** 1.8)]

    def sign(self) -> int:
        """Choose +1 or -1."""
        return 1 if self.rng.random() < 0.5 else -1


def is_held_out(adjective: str, noun: str) -> bool:
    """Say whether an adjective and noun pair is reserved for the dev set."""
    return zlib.crc32(f"{adjective}|{noun}".encode()) % HELD_OUT_ONE_IN == 0


def adjective(draw: Draw, noun: str, sign: int) -> Clause:
    """Choose an adjective of the given sign for a noun."""
    ambiguous = [
        word for word, sides in words.AMBIGUOUS.items() if noun in sides[0 if sign > 0 else 1]
    ]
    if ambiguous and draw.rng.random() < 0.3:
        return Clause(text=draw.pick(ambiguous), score=1.1 * sign)
    while True:
        strength = 1 if draw.rng.random() < 0.65 else 2
        word = draw.common(words.ADJECTIVES[sign, strength])
        if draw.held_out or not is_held_out(word, noun):
            break
    return Clause(text=word, score=sign * (1.1 if strength == 1 else 1.8))


def _predicate(draw: Draw, noun: str, sign: int) -> Clause:
    """Choose an adjective together with a degree word, as it stands after a verb."""
    plain = adjective(draw, noun, sign)
    degree, factor = draw.pick(words.DEGREES)
    return Clause(text=f"{degree} {plain.text}".strip(), score=factor * plain.score)


def _copular(draw: Draw, noun: str, sign: int) -> Clause:
    """Say what an aspect is, straight or through negation."""
    patterns = (
        ("the {n} is {p}", 1.0),
        ("the {n} is {p}", 1.0),
        ("the {n} feels {p}", 1.0),
        ("the {n} is both {a} and {b}", 1.2),
        ("the {n} is not {a}", -0.7),
        ("the {n} is hardly {a}", -0.8),
        ("the {n} is never {a}", -0.9),
        ("the {n} is anything but {a}", -1.0),
        ("the {n} is far from {a}", -0.9),
        ("nobody could call the {n} {a}", -0.9),
        ("there is nothing {a} about the {n}", -1.0),
        ("i doubt that anyone will find the {n} {a}", -0.9),
        ("the {n} is neither {a} nor {b}", -1.0),
        ("the {n} is never less than {a}", 1.1),
        ("the {n} is nothing if not {a}", 1.1),
        ("it would be wrong to say the {n} is not {a}", 0.7),
        ("nobody can deny that the {n} is {p}", 1.0),
        ("the {n} could have been {a}", -0.6),
        ("the {n} is too often {p}", 0.9 if sign < 0 else 0.4),
        ("the {n} is less {a} than the original", -0.7),
        ("the {n} is even more {a} than the original", 1.2),
        ("the {n} is more {a} than {c}", 1.0),
        ("the {n} is less {a} than {c}", -1.0),
        ("the {n} is as {a} as {s}", 1.1),
        ("the {n} is about as {d} as {t}", -1.4),
    )
    pattern, factor = draw.pick(patterns)
    first = adjective(draw, noun, sign)
    second = adjective(draw, noun, sign)
    while second.text == first.text:
        second = adjective(draw, noun, sign)
    predicate = _predicate(draw, noun, sign)
    text = pattern.format(
        n=noun,
        p=predicate.text,
        a=first.text,
        b=second.text,
        c=adjective(draw, noun, -sign).text,
        d=draw.common(words.ADJECTIVES[1, 1]),
        s=draw.pick(words.SIMILES[sign]),
        t=draw.pick(words.SIMILES[-1]),
    )
    if "{d}" in pattern:
        return Clause(text=text, score=-1.5)
    return Clause(text=text, score=factor * (predicate if "{p}" in pattern else first).score)


def _verbal(draw: Draw, noun: str, sign: int) -> Clause:
    """Say what an aspect does, straight or through negation."""
    pattern, factor = draw.pick(
        (
            ("the {n} {v}", 1.2),
            ("the {n} really {v}", 1.4),
            ("the {n} {v} more than it should", -0.3 if sign > 0 else 1.2),
            ("the {n} never {v}", -1.2),
            ("the {n} does not {w}", -1.1),
            ("the {n} rarely {v}", -0.9),
            ("the {n} never fails to {w}", 1.3),
            ("the {n} fails to {w}", -1.2),
            ("the {n} cannot help but {w}", 1.1),
            ("for a while it seems that the {n} will {w} , and then it does not", -1.0),
            ("the {n} still manages to {w}", 1.0),
        )
    )
    third, plain = draw.common(words.VERBS[sign])
    return Clause(text=pattern.format(n=noun, v=third, w=plain), score=sign * factor)


def _quality(draw: Draw, noun: str, sign: int) -> Clause:
    """Say which quality an aspect has, lacks or is not without."""
    pattern, factor = draw.pick(
        (
            ("the {n} is full of {q}", 1.3),
            ("the {n} has plenty of {q}", 1.2),
            ("there is real {q} in the {n}", 1.2),
            ("the {n} has no {q}", -1.2),
            ("the {n} lacks {q}", -1.1),
            ("the {n} is short on {q}", -1.0),
            ("the {n} is not without {q}", 0.7),
            ("the {n} is never short of {q}", 1.1),
            ("the {n} has more {q} than {r}", 1.0),
            ("the {n} trades {q} for {r}", -1.0),
            ("what the {n} needs is more {o}", 0.0),
        )
    )
    text = pattern.format(
        n=noun,
        q=draw.common(words.QUALITIES[sign]),
        r=draw.common(words.QUALITIES[-sign]),
        o=draw.common(words.QUALITIES[1]),
    )
    return Clause(text=text, score=sign * factor if factor else -1.0)


def _reaction(draw: Draw, noun: str, sign: int) -> Clause:
    """Say how somebody took an aspect."""
    extra = adjective(draw, noun, draw.sign())
    tail = f"the {extra.text} {noun}" if draw.rng.random() < 0.4 else f"the {noun}"
    shift = 0.4 * extra.score if tail != f"the {noun}" else 0.0
    return Clause(text=f"{draw.pick(words.REACTIONS[sign])} {tail}", score=1.5 * sign + shift)


def clause(draw: Draw, sign: int | None = None) -> Clause:
    """Build one opinion clause, of the wanted sign where one is given."""
    makers: tuple[Callable[[Draw, str, int], Clause], ...] = (
        _copular,
        _copular,
        _copular,
        _verbal,
        _quality,
        _reaction,
    )
    while True:
        made = draw.pick(makers)(draw, draw.common(words.ASPECTS), draw.sign())
        if sign is None or made.score * sign > 0:
            return made
