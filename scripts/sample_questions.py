"""Seeded questions on the sample paragraphs, in the layout of SQuAD v1.1."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from albert_deploy.scripts.sample_paragraphs import Fact, Paragraph, capital, paragraph

FEWEST_WORDS: Final = 25


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, the fact it asks for, and accepted spans as pairs of text and start."""

    text: str
    fact: Fact
    answers: tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A paragraph with its questions."""

    paragraph: Paragraph
    questions: tuple[Question, ...]


def accepted_answers(answer: str, rng: random.Random) -> list[str]:
    """List 1 to 3 spans different annotators would mark, the most usual one first."""
    variants = [answer]
    if answer.startswith("the "):
        variants.append(answer.removeprefix("the "))
    if answer[0].isdigit() and answer.count(" ") == 1:
        variants.append(answer.split(" ", maxsplit=1)[0])
    if rng.random() < 0.2:
        variants.reverse()
    return [*variants, variants[0]][: rng.randrange(1, 4)]


def _located(context: str, answer: str, span: str) -> tuple[str, int]:
    """Find a span inside the answer as it is written in the context."""
    start = context.lower().index(answer.lower()) + answer.lower().index(span.lower())
    return context[start : start + len(span)], start


def _size(rng: random.Random, long_share: float, easy: bool) -> dict[str, int]:
    """Choose how much a paragraph tells."""
    if easy:
        return {
            "subjects": rng.randrange(1, 3),
            "per_subject": rng.randrange(2, 4),
            "asides": int(rng.random() < 0.25),
        }
    if rng.random() < long_share:
        return {"subjects": rng.randrange(4, 6), "per_subject": 4, "asides": 4}
    return {
        "subjects": rng.randrange(1, 4),
        "per_subject": rng.randrange(2, 5),
        "asides": rng.randrange(0, 3),
    }


def generate(
    count: int,
    *,
    seed: int,
    held_out: bool,
    most_answers: int,
    long_share: float,
    easy: bool = False,
    exclude: frozenset[str] = frozenset(),
) -> list[Page]:
    """Generate paragraphs until they hold `count` questions.

    Args:
        count: Number of questions.
        seed: Seed of the grammar.
        held_out: Whether names reserved for the dev set may be drawn.
        most_answers: Most accepted answers a question lists, 1 to 3.
        long_share: Share of paragraphs of about 150 words and more.
        easy: Whether to tell of one or two subjects only, however short the paragraph.
        exclude: Contexts that must not be produced.
    """
    rng = random.Random(seed)
    pages: list[Page] = []
    made = 0
    while made < count:
        told = paragraph(rng, held_out=held_out, **_size(rng, long_share, easy))
        if told.text in exclude or (not easy and told.text.count(" ") < FEWEST_WORDS):
            continue
        asked = rng.sample(told.facts, min(len(told.facts), rng.randrange(2, 5), count - made))
        questions: list[Question] = []
        for fact in asked:
            text = capital(rng.choice(fact.relation.asks.split("|")).format(s=fact.subject))
            spans = accepted_answers(fact.answer, rng)[:most_answers]
            answers = tuple(_located(told.text, fact.answer, span) for span in spans)
            questions.append(Question(text=text, fact=fact, answers=answers))
        if questions:
            pages.append(Page(paragraph=told, questions=tuple(questions)))
            made += len(questions)
    return pages


def as_squad(pages: Sequence[Page], *, mark: str) -> dict[str, Any]:
    """Lay pages out as a SQuAD v1.1 document whose question ids start with a mark."""
    articles: list[dict[str, Any]] = []
    number = 0
    for page in pages:
        entries: list[dict[str, Any]] = []
        for question in page.questions:
            answers = [{"text": text, "answer_start": start} for text, start in question.answers]
            entries.append(
                {"id": f"{mark}-{number:05d}", "question": question.text, "answers": answers}
            )
            number += 1
        title = page.paragraph.sentences[0][2].removeprefix("the ").replace(" ", "_")
        articles.append(
            {"title": title, "paragraphs": [{"context": page.paragraph.text, "qas": entries}]}
        )
    return {"version": "1.1", "data": articles}
