"""Names, quantities and other answers of the samples, drawn from the tables in ``data/``."""

import random
import tomllib
import zlib
from pathlib import Path
from typing import Any, Final

HELD_OUT_ONE_IN = 7


def read_table(name: str) -> dict[str, Any]:
    """Read a file of ``data/``."""
    path = Path(__file__).parent / "data" / f"{name}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def split(text: str) -> tuple[str, ...]:
    """Cut a comma separated list into its entries."""
    return tuple(part.strip() for part in text.split(","))


_TABLE: Final = read_table("names")
_SIMPLE: Final = {kind: split(text) for kind, text in _TABLE.pop("simple").items()}
_PARTS: Final = {name: split(text) for name, text in _TABLE.items()}
HER_NAMES: Final = _PARTS["her_names"]


def _joined(rng: random.Random, stems: str, ends: str, held_out: bool) -> str:
    """Join a stem and an ending; some joins are reserved for the dev set."""
    while True:
        name = rng.choice(_PARTS[stems]) + rng.choice(_PARTS[ends])
        if held_out or zlib.crc32(name.encode()) % HELD_OUT_ONE_IN:
            return name


def town(rng: random.Random, held_out: bool) -> str:
    """Draw the name of a town."""
    return _joined(rng, "town_stems", "town_ends", held_out)


def family(rng: random.Random, held_out: bool) -> str:
    """Draw a family name."""
    return _joined(rng, "name_stems", "family_ends", held_out)


def make_name(kind: str, rng: random.Random, held_out: bool) -> str:
    """Draw an answer or subject of a kind.

    Args:
        kind: Key such as "person", "year" or "material".
        rng: Source of randomness, advanced by the call.
        held_out: Whether names reserved for the dev set may be drawn.

    Returns:
        The text as it stands in a sentence, with its article where it has one.

    Raises:
        KeyError: If the kind is unknown.
    """
    if kind in _SIMPLE:
        return rng.choice(_SIMPLE[kind])
    parts = _PARTS
    last, place = family(rng, held_out), town(rng, held_out)
    head, tail = rng.choice(parts["title_heads"]), rng.choice(parts["title_tails"])
    day, month, year = rng.randrange(1, 29), rng.choice(parts["months"]), rng.randrange(1610, 1990)
    made = {
        "person": f"{rng.choice(HER_NAMES + parts['his_names'])} {last}",
        "place": place,
        "year": str(year),
        "date": f"{day} {month} {year}",
        "school": rng.choice(parts["schools"]).format(t=place, f=last),
        "prize": rng.choice(parts["prizes"]).format(
            t=place, f=last, n=rng.choice(parts["title_tails"])
        ),
        "title": f"the {head} {tail}",
        "mountain": f"Mount {_joined(rng, 'name_stems', 'river_ends', held_out)}",
        "river": f"the {_joined(rng, 'town_stems', 'river_ends', held_out)}",
        "sea": rng.choice(("the {n} Sea", "Lake {n}", "the Gulf of {n}", "{n} Bay")).format(n=last),
        "length": f"{rng.randrange(40, 990)} {rng.choice(('kilometres', 'miles'))}",
        "count": f"{rng.randrange(1, 90)},{rng.randrange(10)}00",
        "goods": f"{rng.choice(parts['goods_heads'])} {rng.choice(parts['goods_tails'])}",
        "price": f"{rng.randrange(2, 95)} {rng.choice(('crowns', 'florins', 'pounds'))}",
        "weight": f"{rng.randrange(2, 95)} {rng.choice(('grams', 'kilograms', 'ounces'))}",
        "device": f"the {last} {rng.choice(parts['devices'])}",
        "battle": f"the battle of {place}",
        "animal": f"the {rng.choice(parts['marks'])} {rng.choice(parts['animals'])}",
    }
    return made[kind]
