"""Seeded grammar of film-review sentences with a sentiment label, in the style of SST-2.

A sentence joins clauses by contrast or coordination and may be wrapped in words that carry no
opinion. The label is drawn from the summed strength of the clauses, so faint praise and mixed
verdicts are labelled with the uncertainty that human annotators show on them.
"""

import math
import random
import re
from dataclasses import dataclass
from typing import Final

from albert_deploy.scripts import sample_review_words as words
from albert_deploy.scripts.sample_clauses import Clause, Draw, adjective, clause
from albert_deploy.scripts.sample_names import make_name

CERTAINTY: Final = 5.0
# Control characters around the words of a clause, opened by its sign; none is left in a row.
OPEN: Final = {-1: "\x01", 1: "\x02"}
CLOSE: Final = "\x03"


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
    nouns = [n for sides in words.AMBIGUOUS.values() for n in sides[0 if sign > 0 else 1]]
    plain = draw.rng.random() < 0.75
    noun = draw.common(words.KINDS) if plain else draw.pick(nouns)
    first, second = adjective(draw, noun, sign), adjective(draw, noun, sign)
    other = adjective(draw, noun, -sign)
    pattern, score = draw.pick(
        (
            ("a {a} {n}", first.score),
            ("a {a} , {b} {n}", first.score + second.score),
            ("{a} and {b}", first.score + second.score),
            ("not a {a} {n}", -0.9 * first.score),
            ("{a} , but never {b}", first.score - 1.6 * second.score),
            ("a {a} {n} with a {c} heart", first.score + 0.6 * other.score),
            ("more {a} than {c}", first.score),
            ("{a} , if also {c}", first.score + 0.5 * other.score),
            ("once {a} , now {c}", 1.4 * other.score),
        )
    )
    text = pattern.format(a=first.text, b=second.text, c=other.text, n=noun)
    return Clause(text=_with_article(text), score=score)


def _contrast(draw: Draw) -> Clause:
    """Set two clauses of opposite sign against each other; the main one decides."""
    sign = draw.sign()
    main, side = opinion(draw, sign), opinion(draw, -sign)
    noun = draw.common(words.ASPECTS)
    modifier = adjective(draw, noun, -sign)
    quality = draw.common(words.QUALITIES[-sign])
    pattern, weight = draw.pick(
        (
            ("although {s} , {m}", 0.2),
            ("{s} , but {m}", 0.2),
            ("{s} , yet {m}", 0.2),
            ("{m} , even though {s}", 0.2),
            ("{m} , although {s}", 0.25),
            ("while {s} , {m}", 0.2),
            ("granted , {s} ; still , {m}", 0.2),
            ("{s} . and yet {m}", 0.2),
            ("despite its {x} , {m}", 0.2),
            ("{m} in spite of the {x}", 0.2),
            ("for all its {q} , {m}", 0.2),
            ("{m} , whatever its {q}", 0.2),
        )
    )
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
        z=draw.pick(words.ASIDES),
        p=draw.pick(words.PLACES),
        k=draw.common(words.KINDS),
        t=draw.pick(words.SUBJECTS),
        f=draw.pick(words.TITLES),
        m=draw.rng.randrange(71, 199),
        w=make_name("person", draw.rng, draw.held_out).lower(),
    )
    return _with_article(text)


def _with_filler(draw: Draw, core: Clause) -> str:
    """Wrap an opinion in words that carry none, and close the sentence."""
    before = (
        "{z} , ",
        "set in {p} , this is a {k} about {t} ; ",
        "the director of {f} returns with a {k} about {t} . ",
        "it runs for {m} minutes , and ",
        "directed by {w} , this is a {k} about {t} ; ",
        "{w} plays the lead , and ",
        "{z} , in this {k} about {t} , ",
        "we open in {p} , where we meet {t} ; ",
        "like {f} before it , this {k} takes place in {p} ; ",
    )
    after = (
        " , {z}",
        " , and it ends in {p}",
        " in this {k} about {t}",
        " ( the print runs for {m} minutes )",
        " , much as in {f}",
        " ( {w} wrote the songs )",
        " ; the rest takes place in {p}",
    )
    roll = draw.rng.random()
    front = draw.pick(before) if roll < 0.3 or roll > 0.92 else ""
    back = draw.pick(after) if 0.3 < roll < 0.5 or roll > 0.92 else ""
    stop = draw.pick((" .", " .", " .", " !", ""))
    return f"{_fill(draw, front)}{core.text}{_fill(draw, back)}{stop}"


def review(draw: Draw) -> Review:
    """Generate one sentence with its label and clauses."""
    maker = draw.pick((_fragment, opinion, opinion, _contrast, _contrast, _list))
    core = maker(draw)
    text, spans = unmarked(core.text if maker is _fragment else _with_filler(draw, core))
    positive = 1.0 / (1.0 + math.exp(-CERTAINTY * core.score))
    return Review(text=text, label=int(draw.rng.random() < positive), spans=spans)


def generate(
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
