"""Seeded grammar of short encyclopedic paragraphs and of questions on them, as in SQuAD v1.1.

A paragraph tells facts of one or more subjects. Subjects of the same type share relations, so a
question can be answered only by matching both the subject and the relation. Later sentences may
refer back by a pronoun, a family name or a description.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from albert_deploy.scripts.samples.names import HER_NAMES, make_name, read_table


@dataclass(frozen=True, kw_only=True)
class Relation:
    """One relation with the kind of its answer and its alternative wordings, see ``data/facts``."""

    kind: str
    tells: Sequence[str]
    whole: Sequence[str]
    asks: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A type of subject: how it is named, described and introduced."""

    kind: str
    described: Sequence[str]
    opening: Sequence[str]
    relations: Sequence[Relation]


_TABLE: Final = read_table("facts")
DOMAINS: Final = tuple(
    Domain(**domain | {"relations": [Relation(**one) for one in domain["relations"]]})
    for domain in _TABLE["domain"]
)
ASIDES: Final[list[str]] = _TABLE["asides"]
FEWEST_WORDS: Final = 25
DEV_QUESTIONS: Final = 600
TRAIN_QUESTIONS: Final = 24_000
EASY_QUESTIONS: Final = 24_000
SMALL_AFTER_LEAD: Final = re.compile(
    r"(The|A|An|In|On|At|About|Some|With|Friends|There|Death|\w+(ers|ors|nts)) "
)
LEADS: Final = ("", "", "", "", "According to the chronicle, ", "As is well known, ", "In fact, ")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A subject, the relation it stands in, and the answer."""

    subject: str
    relation: Relation
    answer: str


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """A text, the begin, end and subject of its sentences (no subject: ""), and its facts."""

    text: str
    sentences: tuple[tuple[int, int, str], ...]
    facts: tuple[Fact, ...]


def capital(text: str) -> str:
    """Raise the first letter."""
    return text[:1].upper() + text[1:]


class _Names:
    """Draws names so that no two in a paragraph are equal or contained in one another."""

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        self._rng = rng
        self._held_out = held_out
        self._taken: list[str] = []

    def new(self, kind: str) -> str:
        """Draw a name that clashes with none drawn before."""
        while True:
            name = make_name(kind, self._rng, self._held_out)
            bare = name.lower()
            if not any(bare in other or other in bare for other in self._taken):
                self._taken.append(bare)
                return name


def _references(subject: str, domain: Domain, kind: str) -> tuple[str, ...]:
    """List what may stand for a subject that was just named."""
    if domain.kind != "person":
        return ("it", *domain.described)
    first, last = subject.split(" ")
    return ("she" if first in HER_NAMES else "he", last, f"the {kind}")


def _tell(rng: random.Random, group: Sequence[Fact], name: str) -> str:
    """Tell one or two facts of a subject in one sentence."""
    first = group[0]
    by_name = name == first.subject or (" " not in name and name[0].isupper())
    if len(group) == 1 and by_name and rng.random() < 0.45:
        text = rng.choice(first.relation.whole).format(s=name, a=first.answer)
    else:
        told = [rng.choice(f.relation.tells).format(a=f.answer) for f in group]
        text = f"{name} {' and '.join(told)}"
    lead = rng.choice(LEADS)
    if lead and SMALL_AFTER_LEAD.match(text):
        text = text[:1].lower() + text[1:]
    return f"{lead}{text if lead else capital(text)}."


def _block(rng: random.Random, domain: Domain, told: Sequence[Fact]) -> list[str]:
    """Tell all facts of one subject, the first by its full name."""
    subject = told[0].subject
    kind = rng.choice(domain.described).removeprefix("the ")
    backward = _references(subject, domain, kind)
    sentences: list[str] = []
    if rng.random() < 0.4:
        opening = rng.choice(domain.opening)
        sentences.append(opening.format(s=subject, S=capital(subject), k=kind) + ".")
    rest = list(told)
    while rest:
        take = 2 if len(rest) > 1 and rng.random() < 0.35 else 1
        group, rest = rest[:take], rest[take:]
        back = bool(sentences) and rng.random() < 0.35
        sentences.append(_tell(rng, group, rng.choice(backward) if back else subject))
    return sentences


def paragraph(
    rng: random.Random, *, held_out: bool, subjects: int, per_subject: int, asides: int
) -> Paragraph:
    """Generate one paragraph.

    Args:
        rng: Source of randomness, advanced by the call.
        held_out: Whether names reserved for the dev set may be drawn.
        subjects: Number of subjects told about.
        per_subject: Most facts of one subject.
        asides: Number of sentences beside the point, with distracting names.

    Returns:
        The paragraph; every answer of its facts occurs in the text exactly once.
    """
    names = _Names(rng, held_out)
    main = rng.choice(DOMAINS)
    told: list[tuple[str, str]] = []
    known: list[Fact] = []
    breaks: list[int] = []
    for number in range(subjects):
        domain = main if number == 0 or rng.random() < 0.7 else rng.choice(DOMAINS)
        subject = names.new(domain.kind)
        count = min(len(domain.relations), rng.randrange(max(1, per_subject - 2), per_subject + 1))
        facts_told = [
            Fact(subject=subject, relation=relation, answer=names.new(relation.kind))
            for relation in rng.sample(domain.relations, count)
        ]
        told += [(sentence, subject) for sentence in _block(rng, domain, facts_told)]
        breaks.append(len(told))
        known += facts_told
    # From the end, so that earlier breaks keep their places.
    chosen = sorted((rng.choice(breaks) for _ in range(asides)), reverse=True)
    for place, aside in zip(chosen, rng.sample(ASIDES, asides), strict=True):
        drawn = {kind: names.new(kind) for kind in ("year", "person", "place")}
        told.insert(place, (aside.format(**drawn) + ".", ""))
    sentences: list[tuple[int, int, str]] = []
    end = -1
    for sentence, subject in told:
        sentences.append((end + 1, end + 1 + len(sentence), subject))
        end += 1 + len(sentence)
    text = " ".join(sentence for sentence, _ in told)
    lower = text.lower()
    single = [fact for fact in known if lower.count(fact.answer.lower()) == 1]
    return Paragraph(text=text, sentences=tuple(sentences), facts=tuple(single))


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


def generate_pages(
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
            text = capital(rng.choice(fact.relation.asks).format(s=fact.subject))
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


def question_pages(
    count: int = TRAIN_QUESTIONS, easy_count: int = EASY_QUESTIONS
) -> tuple[list[Page], list[Page], list[Page]]:
    """Generate the training questions, easier ones to begin with, and the dev questions.

    Pages before the last one do not depend on the counts.
    """
    dev = generate_pages(DEV_QUESTIONS, seed=12, held_out=True, most_answers=3, long_share=0.08)
    taken = frozenset(page.paragraph.text for page in dev)
    train = generate_pages(
        count, seed=11, held_out=False, most_answers=1, long_share=0.05, exclude=taken
    )
    easy = generate_pages(
        easy_count,
        seed=13,
        held_out=False,
        most_answers=1,
        long_share=0.0,
        easy=True,
        exclude=taken,
    )
    return train, easy, dev
