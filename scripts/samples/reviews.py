"""Seeded grammar of film-review sentences with a sentiment label, in the style of SST-2.

Negation, doubled negation, comparison and simile act inside a clause and set its signed strength.
A sentence joins clauses by contrast or coordination and may be wrapped in words that carry no
opinion. The label is drawn from the summed strength of the clauses, so faint praise and mixed
verdicts are labelled with the uncertainty that human annotators show on them.
"""

import math
import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from albert_deploy.scripts.samples.names import make_name, read_table, split

T = TypeVar("T")

DEV_REVIEWS: Final = 800
TRAIN_REVIEWS: Final = 80_000
HELD_OUT_ONE_IN: Final = 8
CERTAINTY: Final = 5.0
# Control characters around the words of a clause, opened by its sign; none is left in a row.
OPEN: Final = {-1: "\x01", 1: "\x02"}
CLOSE: Final = "\x03"
TABLE: Final = read_table("reviews")
CLAUSES: Final[dict[str, list[Any]]] = TABLE["clauses"]
WORDS: Final = {name: split(text) for name, text in TABLE.items() if isinstance(text, str)}
# Words of praise and of blame.
OPINION: Final = {
    sign: {kind: split(text) for kind, text in TABLE[name].items()}
    for sign, name in ((1, "good"), (-1, "bad"))
}
# Adjectives that say nothing until the noun is known: of which it is praise, and of which blame.
AMBIGUOUS: Final = {
    word: {1: split(praised), -1: split(blamed)}
    for word, (praised, blamed) in TABLE["ambiguous"].items()
}


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
    ambiguous = [word for word, nouns in AMBIGUOUS.items() if noun in nouns[sign]]
    if ambiguous and draw.rng.random() < 0.3:
        return Clause(text=draw.pick(ambiguous), score=1.1 * sign)
    while True:
        strength = 1 if draw.rng.random() < 0.65 else 2
        word = draw.common(OPINION[sign]["mild" if strength == 1 else "strong"])
        if draw.held_out or not is_held_out(word, noun):
            break
    return Clause(text=word, score=sign * (1.1 if strength == 1 else 1.8))


def _pattern(draw: Draw, kind: str, sign: int) -> tuple[str, float]:
    """Choose a pattern of the table, with its factor where words of a sign are put in."""
    pattern, praise, *blame = draw.pick(CLAUSES[kind])
    return pattern, blame[0] if blame and sign < 0 else praise


def _predicate(draw: Draw, noun: str, sign: int) -> Clause:
    """Choose an adjective together with a degree word, as it stands after a verb."""
    plain = adjective(draw, noun, sign)
    degree, factor = draw.pick(TABLE["degrees"])
    return Clause(text=f"{degree} {plain.text}".strip(), score=factor * plain.score)


def _copular(draw: Draw, noun: str, sign: int) -> Clause:
    """Say what an aspect is, straight or through negation."""
    pattern, factor = _pattern(draw, "copular", sign)
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
        d=draw.common(OPINION[1]["mild"]),
        s=draw.pick(OPINION[sign]["similes"]),
        t=draw.pick(OPINION[-1]["similes"]),
    )
    if "{d}" in pattern:
        return Clause(text=text, score=-1.5)
    return Clause(text=text, score=factor * (predicate if "{p}" in pattern else first).score)


def _verbal(draw: Draw, noun: str, sign: int) -> Clause:
    """Say what an aspect does, straight or through negation."""
    pattern, factor = _pattern(draw, "verbal", sign)
    third, plain = draw.common(OPINION[sign]["verbs"]).split("/")
    return Clause(text=pattern.format(n=noun, v=third, w=plain), score=sign * factor)


def _quality(draw: Draw, noun: str, sign: int) -> Clause:
    """Say which quality an aspect has, lacks or is not without."""
    pattern, factor = _pattern(draw, "quality", sign)
    text = pattern.format(
        n=noun,
        q=draw.common(OPINION[sign]["qualities"]),
        r=draw.common(OPINION[-sign]["qualities"]),
        o=draw.common(OPINION[1]["qualities"]),
    )
    return Clause(text=text, score=sign * factor if factor else -1.0)


def _reaction(draw: Draw, noun: str, sign: int) -> Clause:
    """Say how somebody took an aspect."""
    extra = adjective(draw, noun, draw.sign())
    tail = f"the {extra.text} {noun}" if draw.rng.random() < 0.4 else f"the {noun}"
    shift = 0.4 * extra.score if tail != f"the {noun}" else 0.0
    return Clause(text=f"{draw.pick(OPINION[sign]['reactions'])} {tail}", score=1.5 * sign + shift)


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
        made = draw.pick(makers)(draw, draw.common(WORDS["aspects"]), draw.sign())
        if sign is None or made.score * sign > 0:
            return made


@dataclass(frozen=True, kw_only=True)
class Review:
    """One row: the sentence, its label (1 positive, 0 negative) and its clauses.

    `spans` lists begin, end and sign of every clause that states an opinion; a fragment has none.
    """

    text: str
    label: int
    spans: tuple[tuple[int, int, int], ...]


def marked(text: str, sign: int) -> str:
    """Enclose words in the marks of their sign."""
    return f"{OPEN[sign]}{text}{CLOSE}"


def unmarked(text: str) -> tuple[str, tuple[tuple[int, int, int], ...]]:
    """Take the marks out of a sentence and return where they stood."""
    kept: list[str] = []
    spans: list[tuple[int, int, int]] = []
    begin, sign = 0, 0
    signs = {mark: sign for sign, mark in OPEN.items()}
    for char in text:
        if char in signs:
            begin, sign = len(kept), signs[char]
        elif char == CLOSE:
            spans.append((begin, len(kept), sign))
        else:
            kept.append(char)
    return "".join(kept), tuple(spans)


def opinion(draw: Draw, sign: int | None = None) -> Clause:
    """Build one clause, of the wanted sign where one is given, with its words marked."""
    made = clause(draw, sign)
    return Clause(text=marked(made.text, 1 if made.score > 0 else -1), score=made.score)


def _with_article(text: str) -> str:
    """Write "an" where a vowel follows."""
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def _fragment(draw: Draw) -> Clause:
    """Build a verdict without a verb, the shortest kind of row."""
    sign = draw.sign()
    nouns = [noun for found in AMBIGUOUS.values() for noun in found[sign]]
    plain = draw.rng.random() < 0.75
    noun = draw.common(WORDS["kinds"]) if plain else draw.pick(nouns)
    first, second = adjective(draw, noun, sign), adjective(draw, noun, sign)
    other = adjective(draw, noun, -sign)
    pattern, a, b, c = draw.pick(CLAUSES["fragment"])
    text = pattern.format(a=first.text, b=second.text, c=other.text, n=noun)
    score = a * first.score + b * second.score + c * other.score
    return Clause(text=_with_article(text), score=score)


def _contrast(draw: Draw) -> Clause:
    """Set two clauses of opposite sign against each other; the main one decides."""
    sign = draw.sign()
    main, side = opinion(draw, sign), opinion(draw, -sign)
    noun = draw.common(WORDS["aspects"])
    modifier = adjective(draw, noun, -sign)
    quality = draw.common(OPINION[-sign]["qualities"])
    pattern, weight = draw.pick(CLAUSES["contrast"])
    text = pattern.format(
        s=side.text,
        m=main.text,
        x=marked(f"{modifier.text} {noun}", -sign),
        q=marked(quality, -sign),
    )
    return Clause(text=text, score=1.2 * main.score + weight * side.score)


def _list(draw: Draw) -> Clause:
    """Join two or three clauses that need not agree; the last one weighs a little more."""
    signs = [draw.sign()] * 3 if draw.rng.random() < 0.8 else [draw.sign() for _ in range(3)]
    parts = [opinion(draw, sign) for sign in signs[: 2 if draw.rng.random() < 0.7 else 3]]
    joint = draw.pick((" , and ", " ; ", " and ", " , "))
    text = (" , ".join(p.text for p in parts[:-1])) + joint + parts[-1].text
    return Clause(text=text, score=sum(p.score for p in parts) + 0.2 * parts[-1].score)


def _fill(draw: Draw, pattern: str) -> str:
    """Complete a phrase that carries no opinion."""
    text = pattern.format(
        z=draw.pick(WORDS["asides"]),
        p=draw.pick(WORDS["places"]),
        k=draw.common(WORDS["kinds"]),
        t=draw.pick(WORDS["subjects"]),
        f=draw.pick(WORDS["titles"]),
        m=draw.rng.randrange(71, 199),
        w=make_name("person", draw.rng, draw.held_out).lower(),
    )
    return _with_article(text)


def _with_filler(draw: Draw, core: Clause) -> str:
    """Wrap an opinion in words that carry none, and close the sentence."""
    roll = draw.rng.random()
    front = draw.pick(TABLE["before"]) if roll < 0.3 or roll > 0.92 else ""
    back = draw.pick(TABLE["after"]) if 0.3 < roll < 0.5 or roll > 0.92 else ""
    stop = draw.pick((" .", " .", " .", " !", ""))
    return f"{_fill(draw, front)}{core.text}{_fill(draw, back)}{stop}"


def review(draw: Draw) -> Review:
    """Generate one sentence with its label and clauses."""
    maker = draw.pick((_fragment, opinion, opinion, _contrast, _contrast, _list))
    core = maker(draw)
    text, spans = unmarked(core.text if maker is _fragment else _with_filler(draw, core))
    positive = 1.0 / (1.0 + math.exp(-CERTAINTY * core.score))
    return Review(text=text, label=int(draw.rng.random() < positive), spans=spans)


def generate_reviews(
    count: int, *, seed: int, held_out: bool, exclude: frozenset[str] = frozenset()
) -> list[Review]:
    """Generate distinct labelled sentences, half of each label.

    Args:
        count: Number of rows, an even number.
        seed: Seed of the grammar.
        held_out: Whether word pairs reserved for the dev set may appear.
        exclude: Sentences that must not be produced.

    Raises:
        ValueError: If `count` is odd or negative.
    """
    if count < 0 or count % 2:
        raise ValueError(f"count must be an even number of rows, not {count}")
    draw = Draw(rng=random.Random(seed), held_out=held_out)
    seen = set(exclude)
    left = [count // 2, count // 2]
    rows: list[Review] = []
    while len(rows) < count:
        row = review(draw)
        if left[row.label] and row.text not in seen:
            left[row.label] -= 1
            seen.add(row.text)
            rows.append(row)
    return rows


def review_rows(count: int = TRAIN_REVIEWS) -> tuple[list[Review], list[Review]]:
    """Generate training reviews and the dev reviews.

    The rows before the last few do not depend on `count`.
    """
    dev = generate_reviews(DEV_REVIEWS, seed=2, held_out=True)
    taken = frozenset(row.text for row in dev)
    return generate_reviews(count, seed=1, held_out=False, exclude=taken), dev
