"""Seeded grammar of short encyclopedic paragraphs.

A paragraph tells facts of one or more subjects. Subjects of the same type share relations, so a
question can be answered only by matching both the subject and the relation. Later sentences may
refer back by a pronoun, a family name or a description.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from albert_deploy.scripts import sample_facts as facts
from albert_deploy.scripts import sample_facts_more as more
from albert_deploy.scripts.sample_names import HER_NAMES, make_name


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A type of subject: how it is named, described and introduced."""

    kind: str
    described: str
    relations: tuple[facts.Relation, ...]
    opening: str


DOMAINS: Final = (
    Domain(
        kind="person",
        described="the painter|the chemist|the composer|the engineer|the poet",
        relations=facts.PERSON,
        opening="{S} was a noted {k} of that age|Few have shaped the craft like {s}",
    ),
    Domain(
        kind="river",
        described="the river|this waterway",
        relations=facts.RIVER,
        opening="{S} is a river of the eastern plain|Fishermen praise {s}",
    ),
    Domain(
        kind="place",
        described="the town|the borough",
        relations=facts.TOWN,
        opening="{S} is a market town|Pilgrims pass through {s} every spring",
    ),
    Domain(
        kind="school",
        described="the institution|the house",
        relations=facts.SCHOOL,
        opening="{S} enjoys a good name abroad|Scholars from many lands know {s}",
    ),
    Domain(
        kind="device",
        described="the device|the apparatus",
        relations=more.DEVICE,
        opening="{S} is all but forgotten today|A single copy of {s} survives",
    ),
    Domain(
        kind="title",
        described="the book|the work",
        relations=more.WORK,
        opening="{S} has never been out of print|Critics were slow to accept {s}",
    ),
    Domain(
        kind="battle",
        described="the fight|the encounter",
        relations=more.BATTLE,
        opening="{S} changed the map of the region|Ballads recall {s}",
    ),
    Domain(
        kind="animal",
        described="the species|the creature",
        relations=more.ANIMAL,
        opening="{S} is seldom seen by day|Farmers are fond of {s}",
    ),
)
ASIDES: Final = (
    "A railway reached the district in {year}",
    "The records of those years are incomplete",
    "The papers of {person} describe the matter at length",
    "A plaque in {place} recalls this",
    "Little else is certain",
    "Some historians, among them {person}, disagree",
    "A second account, printed in {year}, gives other details",
    "The archive in {place} burned down in {year}",
    "Visitors often ask about it",
    "Nothing of the kind is known from {place}",
)
SMALL_AFTER_LEAD: Final = re.compile(
    r"(The|A|An|In|On|At|About|Some|With|Friends|There|Death|\w+(ers|ors|nts)) "
)
LEADS: Final = ("", "", "", "", "According to the chronicle, ", "As is well known, ", "In fact, ")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A subject, the relation it stands in, and the answer."""

    subject: str
    relation: facts.Relation
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
        return ("it", *domain.described.split("|"))
    first, last = subject.split(" ")
    return ("she" if first in HER_NAMES else "he", last, f"the {kind}")


def _tell(rng: random.Random, group: Sequence[Fact], name: str) -> str:
    """Tell one or two facts of a subject in one sentence."""
    first = group[0]
    whole = first.relation.whole.split("|")
    by_name = name == first.subject or (" " not in name and name[0].isupper())
    if len(group) == 1 and by_name and rng.random() < 0.45:
        text = rng.choice(whole).format(s=name, a=first.answer)
    else:
        told = [rng.choice(f.relation.tells.split("|")).format(a=f.answer) for f in group]
        text = f"{name} {' and '.join(told)}"
    lead = rng.choice(LEADS)
    if lead and SMALL_AFTER_LEAD.match(text):
        text = text[:1].lower() + text[1:]
    return f"{lead}{text if lead else capital(text)}."


def _block(rng: random.Random, domain: Domain, told: Sequence[Fact]) -> list[str]:
    """Tell all facts of one subject, the first by its full name."""
    subject = told[0].subject
    kind = rng.choice(domain.described.split("|")).removeprefix("the ")
    backward = _references(subject, domain, kind)
    sentences: list[str] = []
    if rng.random() < 0.4:
        opening = rng.choice(domain.opening.split("|"))
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
