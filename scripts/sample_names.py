"""Names, quantities and other answers of the sample paragraphs, drawn from small tables."""

import random
import zlib
from collections.abc import Sequence
from typing import Final

HELD_OUT_ONE_IN = 7


def _split(text: str) -> tuple[str, ...]:
    """Cut a comma separated list into its stripped entries."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


HER_NAMES: Final = _split(
    "Anna, Clara, Edith, Greta, Helen, Irma, Judith, Laura, Martha, Nora, Olga, Paula, Rosa,"
    "Sofia, Thea, Vera, Wilma, Agnes, Bettina, Cecily, Dorothy, Esther"
)
HIS_NAMES: Final = _split(
    "Adam, Boris, Conrad, David, Emil, Felix, Georg, Hugo, Ivan, Jonas, Karl, Leopold, Martin,"
    "Nils, Oscar, Peter, Robert, Samuel, Tomas, Victor, Walter, Anton"
)
NAME_STEMS: Final = _split(
    "Hol, Mar, Ber, Tal, Win, Kess, Dor, Lan, Fal, Gren, Hart, Bran, Os, Pel, Rad, Sel, Tor,"
    "Vald, Wes, Zel, Cran, Ard, Lind, Mor, Nor"
)
FAMILY_ENDS: Final = _split(
    "ley, mann, ova, sen, well, ini, strom, ick, eau, quist, enko, ard, aker, ides"
)
TOWN_STEMS: Final = _split(
    "Ash, Brook, Cal, Dun, Elm, Fair, Glen, Hasel, Ket, Lang, Mill, New, Oak, Port, Rav, Salt,"
    "Thorn, Ul, Vel, Whit, Yar, Stein, Alt, Kirk, Rams"
)
TOWN_ENDS: Final = _split(
    "ford, burg, mouth, dale, haven, stead, wick, field, ona, by, minster, au"
)
RIVER_ENDS: Final = _split("enna, ouse, itz, aro, une, ava, isk, ell")
SCHOOLS: Final = _split(
    "the {t} Academy, the {t} Conservatory, the University of {t}, the {t} School of Mines,"
    "{f} College, the {f} Institute, the {t} Museum"
)
PRIZES: Final = _split(
    "the {f} Medal, the {f} Prize, the Order of {t}, the Golden {n}, the {t} Cup"
)
TITLE_HEADS: Final = _split(
    "Silent, Broken, Distant, Crimson, Hidden, Last, Frozen, Hollow, Second, Northern, Burning,"
    "Patient, Empty, Golden, Drowned, Restless"
)
TITLE_TAILS: Final = _split(
    "Garden, Harbour, Mirror, Orchard, Winter, Letters, Lantern, Tower, Shore, Meadow, Clock,"
    "Bridge, Kingdom, Compass, Sparrow, Cathedral, Feather"
)
DEVICES: Final = _split(
    "lamp, loom, pump, valve, compass, clock, engine, telescope, press, plough, stove, barometer,"
    "lock, camera, drill, battery"
)
ANIMALS: Final = _split(
    "heron, lizard, otter, finch, toad, marten, owl, tortoise, viper, stork, beetle, falcon,"
    "salamander, grouse, ibis, rail"
)
MARKS: Final = _split(
    "spotted, crested, dwarf, marsh, long-tailed, hooded, striped, ringed, pale, dusky, banded,"
    "horned, masked, alpine"
)
GOODS_HEADS: Final = _split(
    "blue, painted, dried, smoked, carved, white, coarse, rare, polished, wild, hand-made,pressed"
)
GOODS_TAILS: Final = _split(
    "porcelain, leather, herring, honey, lace, glass, timber, wool, apples, marble, silk, cheese,"
    "spices, maps, coins, bells, manuscripts, carpets, knives, tobacco"
)
MATERIALS: Final = _split(
    "brass, oak, cast iron, copper wire, waxed paper, bamboo, tin, soft steel, slate, cork,"
    "walnut, thick glass, tarred rope, red clay, whalebone, silver plate, birch bark, bronze"
)
PURPOSES: Final = _split(
    "measure the depth of water, dry wet grain, lift heavy stones, find north in fog,"
    "copy letters, sort seeds by size, grind lenses, send signals at night, clean raw wool,"
    "cut thin glass, keep milk cold, predict storms, weigh gold dust, bend iron bars,"
    "print cheap calendars, drain flooded mines, count passing ships, spin fine thread"
)
HOBBIES: Final = _split(
    "pressed flowers, old sea charts, rowing, amateur astronomy, chess problems, beetles,"
    "folk songs, mountain walks, keeping bees, toy soldiers, foreign stamps, the cello,"
    "card tricks, growing roses, pocket watches, fossil shells, bell ringing,"
    "long-distance swimming"
)
SUBJECTS: Final = _split(
    "a failed harvest, the fall of a banker, two rival sisters, a voyage to the pole,"
    "life in a mill, a false inheritance, the childhood of a thief, a plague year,"
    "a lost manuscript, a village feud, the loneliness of a lighthouse keeper, a stolen election,"
    "an unhappy engagement, a prison revolt, the dreams of a tailor, a duel at dawn,"
    "a winter siege, the building of a railway"
)
CAUSES: Final = _split(
    "a disputed crown, the price of salt, a broken marriage contract, fishing rights,"
    "a stolen flag, unpaid soldiers, the control of a bridge, a border quarrel, a burnt granary,"
    "a new tax on wool, the murder of an envoy, access to a harbour, an insult at a banquet,"
    "a forged treaty"
)
HABITATS: Final = _split(
    "salt marshes, pine forests, old stone walls, mountain lakes, river reeds, dry grassland,"
    "limestone caves, coastal dunes, beech woods, peat bogs, orchards, high cliffs,"
    "flooded quarries, abandoned vineyards, heather moors, hollow trees"
)
FOODS: Final = _split(
    "small fish, beech nuts, water snails, moths, wild berries, field mice, earthworms,"
    "grass seed, frogs and newts, pine needles, ants, soft bark, dragonflies, crab apples,"
    "carrion, river algae"
)
SMALL: Final = _split(
    "two, three, four, five, six, seven, eight, nine, eleven, twelve, fourteen, fifteen, sixteen,"
    "eighteen, twenty, thirty"
)
MONTHS: Final = _split(
    "January, February, March, April, May, June, July, August, September, October, November,"
    "December"
)
SIMPLE: Final = {
    "material": MATERIALS,
    "purpose": PURPOSES,
    "hobby": HOBBIES,
    "subject": SUBJECTS,
    "cause": CAUSES,
    "habitat": HABITATS,
    "food": FOODS,
    "small": SMALL,
}


def _joined(rng: random.Random, stems: Sequence[str], ends: Sequence[str], held_out: bool) -> str:
    """Join a stem and an ending; some joins are reserved for the dev set."""
    while True:
        name = rng.choice(stems) + rng.choice(ends)
        if held_out or zlib.crc32(name.encode()) % HELD_OUT_ONE_IN:
            return name


def town(rng: random.Random, held_out: bool) -> str:
    """Draw the name of a town."""
    return _joined(rng, TOWN_STEMS, TOWN_ENDS, held_out)


def family(rng: random.Random, held_out: bool) -> str:
    """Draw a family name."""
    return _joined(rng, NAME_STEMS, FAMILY_ENDS, held_out)


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
    if kind in SIMPLE:
        return rng.choice(SIMPLE[kind])
    last, place = family(rng, held_out), town(rng, held_out)
    head, tail = rng.choice(TITLE_HEADS), rng.choice(TITLE_TAILS)
    day, month, year = rng.randrange(1, 29), rng.choice(MONTHS), rng.randrange(1610, 1990)
    made = {
        "person": f"{rng.choice(HER_NAMES + HIS_NAMES)} {last}",
        "place": place,
        "year": str(year),
        "date": f"{day} {month} {year}",
        "school": rng.choice(SCHOOLS).format(t=place, f=last),
        "prize": rng.choice(PRIZES).format(t=place, f=last, n=rng.choice(TITLE_TAILS)),
        "title": f"the {head} {tail}",
        "mountain": f"Mount {_joined(rng, NAME_STEMS, RIVER_ENDS, held_out)}",
        "river": f"the {_joined(rng, TOWN_STEMS, RIVER_ENDS, held_out)}",
        "sea": rng.choice(("the {n} Sea", "Lake {n}", "the Gulf of {n}", "{n} Bay")).format(n=last),
        "length": f"{rng.randrange(40, 990)} {rng.choice(('kilometres', 'miles'))}",
        "count": f"{rng.randrange(1, 90)},{rng.randrange(10)}00",
        "goods": f"{rng.choice(GOODS_HEADS)} {rng.choice(GOODS_TAILS)}",
        "price": f"{rng.randrange(2, 95)} {rng.choice(('crowns', 'florins', 'pounds'))}",
        "weight": f"{rng.randrange(2, 95)} {rng.choice(('grams', 'kilograms', 'ounces'))}",
        "device": f"the {last} {rng.choice(DEVICES)}",
        "battle": f"the battle of {place}",
        "animal": f"the {rng.choice(MARKS)} {rng.choice(ANIMALS)}",
    }
    return made[kind]
